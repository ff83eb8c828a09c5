import * as vu from "./numbers.ts";

/** What is known of a front-end's request before its payload is looked into. */
export interface RequestRule {
  /** As the protocol calls it, without the prefix. */
  readonly name: string;
  /** It has a reply of its own, whatever REPLY_ACK says. */
  readonly replies: boolean;
  /** Only allowed when this protocol feature was negotiated. */
  readonly needs?: number;
  /** Descriptors that may come with it; others are a mistake of the peer. */
  readonly descriptors: number;
}

const rule = (name: string, extra: Partial<Omit<RequestRule, "name">> = {}): RequestRule => ({
  name,
  replies: false,
  descriptors: 0,
  ...extra,
});
const reply = { replies: true };

const RULES: Readonly<Record<number, RequestRule>> = {
  [vu.GET_FEATURES]: rule("GET_FEATURES", reply),
  [vu.SET_FEATURES]: rule("SET_FEATURES"),
  [vu.SET_OWNER]: rule("SET_OWNER"),
  [vu.RESET_OWNER]: rule("RESET_OWNER"),
  [vu.SET_MEM_TABLE]: rule("SET_MEM_TABLE", { descriptors: vu.MAX_TABLE_REGIONS }),
  [vu.SET_LOG_BASE]: rule("SET_LOG_BASE", { replies: true, descriptors: 1, needs: vu.PROTOCOL_F_LOG_SHMFD }),
  [vu.SET_LOG_FD]: rule("SET_LOG_FD", { descriptors: 1 }),
  [vu.SET_VRING_NUM]: rule("SET_VRING_NUM"),
  [vu.SET_VRING_ADDR]: rule("SET_VRING_ADDR"),
  [vu.SET_VRING_BASE]: rule("SET_VRING_BASE"),
  [vu.GET_VRING_BASE]: rule("GET_VRING_BASE", reply),
  [vu.SET_VRING_KICK]: rule("SET_VRING_KICK", { descriptors: 1 }),
  [vu.SET_VRING_CALL]: rule("SET_VRING_CALL", { descriptors: 1 }),
  [vu.SET_VRING_ERR]: rule("SET_VRING_ERR", { descriptors: 1 }),
  [vu.GET_PROTOCOL_FEATURES]: rule("GET_PROTOCOL_FEATURES", reply),
  [vu.SET_PROTOCOL_FEATURES]: rule("SET_PROTOCOL_FEATURES"),
  [vu.GET_QUEUE_NUM]: rule("GET_QUEUE_NUM", { ...reply, needs: vu.PROTOCOL_F_MQ }),
  [vu.SET_VRING_ENABLE]: rule("SET_VRING_ENABLE"),
  [vu.SEND_RARP]: rule("SEND_RARP", { needs: vu.PROTOCOL_F_RARP }),
  [vu.NET_SET_MTU]: rule("NET_SET_MTU", { needs: vu.PROTOCOL_F_MTU }),
  [vu.SET_BACKEND_REQ_FD]: rule("SET_BACKEND_REQ_FD", { descriptors: 1, needs: vu.PROTOCOL_F_BACKEND_REQ }),
  [vu.IOTLB_MSG]: rule("IOTLB_MSG", reply),
  [vu.SET_VRING_ENDIAN]: rule("SET_VRING_ENDIAN", { needs: vu.PROTOCOL_F_CROSS_ENDIAN }),
  [vu.GET_CONFIG]: rule("GET_CONFIG", { ...reply, needs: vu.PROTOCOL_F_CONFIG }),
  [vu.SET_CONFIG]: rule("SET_CONFIG", { needs: vu.PROTOCOL_F_CONFIG }),
  [vu.CREATE_CRYPTO_SESSION]: rule("CREATE_CRYPTO_SESSION", {
    ...reply,
    needs: vu.PROTOCOL_F_CRYPTO_SESSION,
  }),
  [vu.CLOSE_CRYPTO_SESSION]: rule("CLOSE_CRYPTO_SESSION", { needs: vu.PROTOCOL_F_CRYPTO_SESSION }),
  [vu.POSTCOPY_ADVISE]: rule("POSTCOPY_ADVISE", { ...reply, needs: vu.PROTOCOL_F_PAGEFAULT }),
  [vu.POSTCOPY_LISTEN]: rule("POSTCOPY_LISTEN", { needs: vu.PROTOCOL_F_PAGEFAULT }),
  [vu.POSTCOPY_END]: rule("POSTCOPY_END", { ...reply, needs: vu.PROTOCOL_F_PAGEFAULT }),
  [vu.GET_INFLIGHT_FD]: rule("GET_INFLIGHT_FD", { ...reply, needs: vu.PROTOCOL_F_INFLIGHT_SHMFD }),
  [vu.SET_INFLIGHT_FD]: rule("SET_INFLIGHT_FD", { descriptors: 1, needs: vu.PROTOCOL_F_INFLIGHT_SHMFD }),
  [vu.GPU_SET_SOCKET]: rule("GPU_SET_SOCKET", { descriptors: 1 }),
  [vu.RESET_DEVICE]: rule("RESET_DEVICE", { needs: vu.PROTOCOL_F_RESET_DEVICE }),
  [vu.VRING_KICK]: rule("VRING_KICK", { needs: vu.PROTOCOL_F_INBAND_NOTIFICATIONS }),
  [vu.GET_MAX_MEM_SLOTS]: rule("GET_MAX_MEM_SLOTS", { ...reply, needs: vu.PROTOCOL_F_CONFIGURE_MEM_SLOTS }),
  [vu.ADD_MEM_REG]: rule("ADD_MEM_REG", { descriptors: 1, needs: vu.PROTOCOL_F_CONFIGURE_MEM_SLOTS }),
  // Some front-ends send the region's descriptor again; it is closed.
  [vu.REM_MEM_REG]: rule("REM_MEM_REG", { descriptors: 1, needs: vu.PROTOCOL_F_CONFIGURE_MEM_SLOTS }),
  [vu.SET_STATUS]: rule("SET_STATUS", { needs: vu.PROTOCOL_F_STATUS }),
  [vu.GET_STATUS]: rule("GET_STATUS", { ...reply, needs: vu.PROTOCOL_F_STATUS }),
  [vu.GET_SHARED_OBJECT]: rule("GET_SHARED_OBJECT", { ...reply, needs: vu.PROTOCOL_F_SHARED_OBJECT }),
  [vu.SET_DEVICE_STATE_FD]: rule("SET_DEVICE_STATE_FD", {
    ...reply,
    descriptors: 1,
    needs: vu.PROTOCOL_F_DEVICE_STATE,
  }),
  [vu.CHECK_DEVICE_STATE]: rule("CHECK_DEVICE_STATE", { ...reply, needs: vu.PROTOCOL_F_DEVICE_STATE }),
};

/** Undefined: no request of this number is known. */
export function requestRule(request: number): RequestRule | undefined {
  return RULES[request];
}

export function requestName(request: number): string {
  return RULES[request]?.name ?? `message ${request}`;
}

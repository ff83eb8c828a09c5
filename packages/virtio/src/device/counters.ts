/** What a virtqueue has done since the device was plugged in. */
export interface QueueCounters {
  /** Chains popped. */
  chains: number;
  /** Device-readable bytes of those chains. */
  readableBytes: number;
  /** Bytes reported as written. */
  writtenBytes: number;
  /** Available buffer notifications that arrived. */
  notificationsReceived: number;
  /** Used buffer notifications that were sent. */
  notificationsSent: number;
  faults: number;
}

export function newCounters(): QueueCounters {
  return {
    chains: 0,
    readableBytes: 0,
    writtenBytes: 0,
    notificationsReceived: 0,
    notificationsSent: 0,
    faults: 0,
  };
}

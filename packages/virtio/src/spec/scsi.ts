/** Numbers of the spec's section "SCSI Host Device". */

/** Virtqueue indices; request queues are this one and those that follow. */
export const VIRTIO_SCSI_CONTROLQ = 0;
export const VIRTIO_SCSI_EVENTQ = 1;
export const VIRTIO_SCSI_REQUESTQ = 2;

/** Feature bits. */
export const VIRTIO_SCSI_F_INOUT = 0;
export const VIRTIO_SCSI_F_HOTPLUG = 1;
export const VIRTIO_SCSI_F_CHANGE = 2;
export const VIRTIO_SCSI_F_T10_PI = 3;

/** struct virtio_scsi_config: offsets in bytes. */
export const VIRTIO_SCSI_CONFIG = {
  num_queues: 0,
  seg_max: 4,
  max_sectors: 8,
  cmd_per_lun: 12,
  event_info_size: 16,
  sense_size: 20,
  cdb_size: 24,
  max_channel: 28,
  max_target: 30,
  max_lun: 32,
} as const;
export const VIRTIO_SCSI_CONFIG_SIZE = 36;

/** What `sense_size` and `cdb_size` are after a reset: bytes. */
export const VIRTIO_SCSI_SENSE_DEFAULT = 96;
export const VIRTIO_SCSI_CDB_DEFAULT = 32;

/** struct virtio_scsi_req_cmd, device-readable part: offsets in bytes. */
export const VIRTIO_SCSI_REQ_CMD = { lun: 0, id: 8, task_attr: 16, prio: 17, crn: 18, cdb: 19 } as const;

/** struct virtio_scsi_req_cmd, device-writable part: offsets in bytes from its start. */
export const VIRTIO_SCSI_REQ_CMD_REPLY = {
  sense_len: 0,
  residual: 4,
  status_qualifier: 8,
  status: 10,
  response: 11,
  sense: 12,
} as const;

/** `response` of commands and of the control queue. */
export const VIRTIO_SCSI_S_OK = 0;
export const VIRTIO_SCSI_S_OVERRUN = 1;
export const VIRTIO_SCSI_S_ABORTED = 2;
export const VIRTIO_SCSI_S_BAD_TARGET = 3;
export const VIRTIO_SCSI_S_RESET = 4;
export const VIRTIO_SCSI_S_BUSY = 5;
export const VIRTIO_SCSI_S_TRANSPORT_FAILURE = 6;
export const VIRTIO_SCSI_S_TARGET_FAILURE = 7;
export const VIRTIO_SCSI_S_NEXUS_FAILURE = 8;
export const VIRTIO_SCSI_S_FAILURE = 9;
export const VIRTIO_SCSI_S_INCORRECT_LUN = 12;

/** `type` of a message on the control queue. */
export const VIRTIO_SCSI_T_TMF = 0;
export const VIRTIO_SCSI_T_AN_QUERY = 1;
export const VIRTIO_SCSI_T_AN_SUBSCRIBE = 2;

/** `subtype` of a task management function. */
export const VIRTIO_SCSI_T_TMF_ABORT_TASK = 0;
export const VIRTIO_SCSI_T_TMF_ABORT_TASK_SET = 1;
export const VIRTIO_SCSI_T_TMF_CLEAR_ACA = 2;
export const VIRTIO_SCSI_T_TMF_CLEAR_TASK_SET = 3;
export const VIRTIO_SCSI_T_TMF_I_T_NEXUS_RESET = 4;
export const VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET = 5;
export const VIRTIO_SCSI_T_TMF_QUERY_TASK = 6;
export const VIRTIO_SCSI_T_TMF_QUERY_TASK_SET = 7;

/** `response` of task management functions. */
export const VIRTIO_SCSI_S_FUNCTION_COMPLETE = 0;
export const VIRTIO_SCSI_S_FUNCTION_SUCCEEDED = 10;
export const VIRTIO_SCSI_S_FUNCTION_REJECTED = 11;

/** struct virtio_scsi_ctrl_tmf: offsets in bytes; `response` is the device-writable part. */
export const VIRTIO_SCSI_CTRL_TMF = { type: 0, subtype: 4, lun: 8, id: 16, response: 24 } as const;
export const VIRTIO_SCSI_CTRL_TMF_SIZE = 25;

/** struct virtio_scsi_ctrl_an: offsets in bytes; the device-writable part starts at `event_actual`. */
export const VIRTIO_SCSI_CTRL_AN = {
  type: 0,
  lun: 4,
  event_requested: 12,
  event_actual: 16,
  response: 20,
} as const;
export const VIRTIO_SCSI_CTRL_AN_SIZE = 21;

/** Bits of `event_requested` and `event_actual`, and of `reason` of VIRTIO_SCSI_T_ASYNC_NOTIFY. */
export const VIRTIO_SCSI_EVT_ASYNC_OPERATIONAL_CHANGE = 2;
export const VIRTIO_SCSI_EVT_ASYNC_POWER_MGMT = 4;
export const VIRTIO_SCSI_EVT_ASYNC_EXTERNAL_REQUEST = 8;
export const VIRTIO_SCSI_EVT_ASYNC_MEDIA_CHANGE = 16;
export const VIRTIO_SCSI_EVT_ASYNC_MULTI_HOST = 32;
export const VIRTIO_SCSI_EVT_ASYNC_DEVICE_BUSY = 64;

/** struct virtio_scsi_event: offsets in bytes. */
export const VIRTIO_SCSI_EVENT = { event: 0, lun: 4, reason: 12 } as const;
export const VIRTIO_SCSI_EVENT_SIZE = 16;

/** `event`; the first is a bit beside one of the others. */
export const VIRTIO_SCSI_T_EVENTS_MISSED = 0x8000_0000;
export const VIRTIO_SCSI_T_NO_EVENT = 0;
export const VIRTIO_SCSI_T_TRANSPORT_RESET = 1;
export const VIRTIO_SCSI_T_ASYNC_NOTIFY = 2;
export const VIRTIO_SCSI_T_PARAM_CHANGE = 3;

/** `reason` of VIRTIO_SCSI_T_TRANSPORT_RESET. */
export const VIRTIO_SCSI_EVT_RESET_HARD = 0;
export const VIRTIO_SCSI_EVT_RESET_RESCAN = 1;
export const VIRTIO_SCSI_EVT_RESET_REMOVED = 2;

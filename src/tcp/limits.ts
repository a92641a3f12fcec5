// Every timer and limit value of the TCP in one table, each with its source. All times in ms, all sizes in bytes.

/** Values that a deployment or a test may set; defaults below. */
export interface TcpLimits {
  /** First RTO, before any sample. RFC 6298 2.1. */
  readonly rtoInitialMs: number;
  /** Floor of the RTO. Deviation: RFC 6298 2.4 (SHOULD) says 1 s; 200 ms as Linux and gVisor, on a link of sub-millisecond RTT (TCP-RTO-01). */
  readonly rtoMinMs: number;
  /** Ceiling of the RTO, at least 60 s. RFC 6298 2.5. */
  readonly rtoMaxMs: number;
  /** RTO after a retransmitted SYN-ACK. RFC 6298 5.7. */
  readonly rtoAfterSynLossMs: number;
  /** Floor of the tail probe's time-out (RFC 8985 7.2: 2 SRTT), so that a busy host's scheduling does not look like loss. */
  readonly ptoMinMs: number;
  /**
   * Added where one segment is in flight, for the guest may delay its acknowledgement. Deviation: RFC 8985 7.2 takes 200 ms, which is no
   * better than the RTO; Linux and Windows delay by 40 ms, the BSDs by 100 (TCP-REC-08).
   */
  readonly ptoAckDelayMs: number;
  /** Longest delay of an acknowledgement; below 500 ms by RFC 9293 MUST-40, 40 ms as Linux. */
  readonly delayedAckMs: number;
  /** SYN-ACK transmissions after the first. Linux tcp_synack_retries. */
  readonly synAckRetries: number;
  /** SYN transmissions after the first: 7 make R2 183 s. RFC 9293 MUST-23 wants three minutes. */
  readonly synRetries: number;
  /** R2 for data: retransmissions of one segment without an answer. RFC 9293 3.8.3, Linux tcp_retries2. */
  readonly dataRetries: number;
  /** TIME-WAIT. Deviation: RFC 9293 3.4.2 has 2 MSL = 4 min; 60 s as Linux and gVisor, for nothing here lives that long (TCP-TW-01). */
  readonly timeWaitMs: number;
  /** FIN-WAIT-2 with the host side gone. Linux tcp_fin_timeout. */
  readonly finWait2Ms: number;
  /** Persist timer ceiling. RFC 9293 3.8.6.1. */
  readonly persistMaxMs: number;
  /** Sender's silly-window override. RFC 9293 3.8.6.2.1: 0.1 to 1 s. */
  readonly swsOverrideMs: number;
  /** Challenge ACKs a flow may send in a window of time. RFC 5961 7, per flow because of CVE-2016-5696. */
  readonly challengeAcks: number;
  readonly challengeWindowMs: number;
  /** Keepalive idle time; 0 = off. RFC 9293 3.8.4. */
  readonly keepaliveIdleMs: number;
  readonly keepaliveIntervalMs: number;
  readonly keepaliveProbes: number;
  /** How long the host may take to answer a dial before the guest's SYN is given up. RFC 9293 MUST-23: R2 for SYN. */
  readonly synPendingMs: number;
  /** Receive window: what a flow starts with and what it grows to. */
  readonly rcvBufInitial: number;
  readonly rcvBufMax: number;
  /** Send buffer: largest ring. The default is the largest of Linux (tcp_wmem). */
  readonly sndBufMax: number;
  /** Ranges held out of order per flow. CVE-2018-5390. */
  readonly oooRanges: number;
  /** Smallest MSS that is believed. CVE-2019-11479. */
  readonly mssFloor: number;
  /** TIME-WAIT entries kept; the oldest goes first. */
  readonly timeWaitMax: number;
  /** Opens whose host side or handshake is not finished. RFC 4987. */
  readonly pendingMax: number;
  /** Of them, those of one VM. */
  readonly pendingPerVm: number;
  /** All flows together. */
  readonly flowsMax: number;
  /** PAWS: TS.Recent is void after this idle time. RFC 7323 5.5. */
  readonly pawsIdleMs: number;
  readonly congestion: 'cubic' | 'new-reno';
}

export const DEFAULT_TCP_LIMITS: TcpLimits = {
  rtoInitialMs: 1000,
  rtoMinMs: 200,
  rtoMaxMs: 60_000,
  rtoAfterSynLossMs: 3000,
  ptoMinMs: 50,
  ptoAckDelayMs: 100,
  delayedAckMs: 40,
  synAckRetries: 5,
  synRetries: 7,
  dataRetries: 15,
  timeWaitMs: 60_000,
  finWait2Ms: 60_000,
  persistMaxMs: 60_000,
  swsOverrideMs: 200,
  challengeAcks: 2,
  challengeWindowMs: 1000,
  keepaliveIdleMs: 0,
  keepaliveIntervalMs: 75_000,
  keepaliveProbes: 9,
  synPendingMs: 180_000,
  rcvBufInitial: 65_536,
  rcvBufMax: 2 * 1024 * 1024,
  sndBufMax: 4 * 1024 * 1024,
  oooRanges: 128,
  mssFloor: 88,
  timeWaitMax: 4096,
  pendingMax: 4096,
  pendingPerVm: 2048,
  flowsMax: 65_536,
  pawsIdleMs: 24 * 24 * 3600 * 1000,
  congestion: 'cubic',
};

/** Default MSS where the peer names none: RFC 9293 MUST-15. */
export const DEFAULT_MSS_V4 = 536;
export const DEFAULT_MSS_V6 = 1220;

/** Our receive window scale: shows windows up to 4 MiB in steps of 64 bytes. RFC 7323 2.3 allows 14 at most. */
export const RCV_WND_SHIFT = 6;
export const MAX_WND_SHIFT = 14;

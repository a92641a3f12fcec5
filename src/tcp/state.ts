// Connection states (RFC 9293 3.3.2), plus one of our own: a SYN whose host connection is still being dialled.

export const State = {
  Closed: 0,
  /** A guest's SYN is held while the host dials: nothing has been sent. */
  SynPending: 1,
  SynSent: 2,
  SynReceived: 3,
  Established: 4,
  FinWait1: 5,
  FinWait2: 6,
  CloseWait: 7,
  Closing: 8,
  LastAck: 9,
  TimeWait: 10,
} as const;
export type State = (typeof State)[keyof typeof State];

/** Printable names, by number; the RFC's where it has one. */
export const STATE_NAMES: readonly string[] = [
  'CLOSED',
  'SYN-PENDING',
  'SYN-SENT',
  'SYN-RECEIVED',
  'ESTABLISHED',
  'FIN-WAIT-1',
  'FIN-WAIT-2',
  'CLOSE-WAIT',
  'CLOSING',
  'LAST-ACK',
  'TIME-WAIT',
];

/** States in which our FIN has not been sent or queued: the host may still send. */
export function canSend(s: State): boolean {
  return s === State.Established || s === State.CloseWait || s === State.SynReceived || s === State.SynSent;
}

/** States in which the guest may still send data. */
export function canReceive(s: State): boolean {
  return s === State.Established || s === State.FinWait1 || s === State.FinWait2;
}

/** What happened since the owner was last told. */
export const EVENT_ESTABLISHED = 1;
export const EVENT_READABLE = 2;
export const EVENT_WRITABLE = 4;
export const EVENT_CLOSED = 8;

/** What loss recovery is doing. */
export const Recovery = { Open: 0, Fast: 1, Loss: 2 } as const;
export type Recovery = (typeof Recovery)[keyof typeof Recovery];

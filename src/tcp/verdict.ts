// What became of a segment that a connection was given.

/** What the caller must do with the segment. */
export const Verdict = {
  Done: 0,
  /** The connection is over and the segment is a SYN that opens the next one on the same 4-tuple. */
  NewSyn: 1,
  /** Answer with the RST of RFC 9293 3.5.2 as if the connection did not exist. */
  Reset: 2,
} as const;
export type Verdict = (typeof Verdict)[keyof typeof Verdict];

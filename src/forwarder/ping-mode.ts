// What `--ping` may be; alone, as the options are read before anything of the forwarder is loaded.

/** What becomes of echo requests to the outside. */
export const PingMode = {
  /** Carried; where the host has no ping for us, answered "prohibited". */
  Auto: 'auto',
  /** Carried; where the host has no ping for us, dropped. */
  AutoDrop: 'auto-drop',
  /** Never carried: answered "prohibited". */
  Unreachable: 'unreachable',
  /** Never carried: dropped. */
  Drop: 'drop',
} as const;
export type PingMode = (typeof PingMode)[keyof typeof PingMode];

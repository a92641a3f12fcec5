// The exit codes of the `isthmus` command: public, listed in the man page, in the sense of sysexits.h. Lives down here so that every
// shell folder can name the one that its operator errors deserve.

/** Exit codes of the `isthmus` command. */
export const ExitCode = {
  /** Ended as asked: SIGTERM, SIGINT, or the only VM of a connected descriptor has gone. */
  Ok: 0,
  /** A mistake of isthmus itself, or a second signal before everything was closed. */
  Unexpected: 1,
  /** EX_USAGE: unknown command or flag, a missing value, or a flag whose value is wrong. */
  Usage: 64,
  /** EX_DATAERR: the daemon refused what a command asked of it. */
  Refused: 65,
  /** EX_NOINPUT: a file named by an option cannot be read. */
  NoInput: 66,
  /** EX_UNAVAILABLE: a socket path, address, port or pid file is held by somebody else; or no daemon answers a command. */
  Unavailable: 69,
  /** EX_CANTCREAT: a socket, pid file, capture or state directory cannot be created. */
  CannotCreate: 73,
  /** EX_CONFIG: a wrong value in the environment or the configuration file, or values that contradict each other. */
  Config: 78,
} as const;
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];

// Counters of the DNS service: plain integers that the shell's metrics read.

export class DnsStats {
  /** Queries that could be read. */
  queries = 0;
  /** Of them, over TCP. */
  tcpQueries = 0;
  /** Answers handed out, errors included. */
  answers = 0;
  /** Answered from local names. */
  localAnswers = 0;
  cacheHits = 0;
  /** Questions that joined one in flight. */
  shared = 0;
  /** Questions that went upstream. */
  lookups = 0;
  /** Queries sent upstream, retries included. */
  upstreamSent = 0;
  upstreamTcp = 0;
  /** Lookups that ended without any usable answer: SERVFAIL. */
  failures = 0;
  /** Queries upstream that a server let run out. */
  timeouts = 0;
  /** Queries upstream that the host's socket refused. */
  hostErrors = 0;
  /** Messages dropped: too short, or answers sent as queries. */
  malformed = 0;
  /** Queries answered FORMERR, NOTIMP or BADVERS. */
  rejected = 0;
  /** Queries refused because a limit was reached. */
  refusedLimit = 0;
  /** Messages from a server's port that answer no open question (late, spoofed, broken). */
  ignoredAnswers = 0;
  /** Answers cut to the guest's size. */
  truncated = 0;
  /** Answers that the guest's link did not take. */
  unsent = 0;
}

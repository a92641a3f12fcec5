// nsswitch.conf(5): where the host's libc looks for names. Of interest is only whether it may know more than the servers of resolv.conf.

/** They know what we read ourselves; `myhostname` knows this host. */
const KNOWN = new Set(['files', 'dns', 'myhostname']);

/** Whether getaddrinfo asks anybody but the hosts file and the servers of resolv.conf. @param text undefined for no such file. */
export function asksMore(text: string | undefined): boolean {
  for (const line of (text ?? '').split('\n')) {
    const match = /^\s*hosts\s*:([^#]*)/.exec(line);
    // What stands in brackets says what to do with an outcome.
    if (match)
      return match[1]!
        .replace(/\[[^\]]*\]/g, ' ')
        .split(/\s+/)
        .some((word) => word !== '' && !KNOWN.has(word));
  }
  // glibc's default without a line, and musl, which has no such file: files and dns.
  return false;
}

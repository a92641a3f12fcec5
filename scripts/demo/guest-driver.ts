// What the demo and the end-to-end tests ask of a guest, whichever kind it is: a Linux VM or the embedded guest.
// Each call does one thing inside the guest and reports what the guest saw; it rejects when the guest could not do it.

/** What DHCP gave the guest. */
export interface GuestLease {
  readonly address: string;
  readonly prefix: number;
  readonly router: string;
  readonly dns: readonly string[];
  readonly ntp: readonly string[];
  /** Option 26, or the link's default where the server said nothing. */
  readonly mtu: number;
  readonly domain: string;
  readonly leaseSeconds: number;
}

/** A DNS question of the guest. */
export interface GuestQuery {
  readonly name: string;
  readonly type: 'A' | 'AAAA' | 'TXT';
  readonly transport: 'udp' | 'tcp';
  /** The server; port 53. */
  readonly server: string;
}

/** One transfer, timed inside the guest. */
export interface GuestTransfer {
  readonly bytes: number;
  /** Lower-case hexadecimal, computed by the guest from what it received or sent. */
  readonly sha256: string;
  /** Milliseconds of the transfer as the guest measured them. */
  readonly ms: number;
}

/** A guest behind the daemon's socket. */
export interface GuestDriver {
  /** For people: `Linux VM (QEMU, tcg)`. */
  readonly description: string;
  /** Asks for an address by DHCP, tells its host name, and applies what it gets. */
  lease(): Promise<GuestLease>;
  /** Round-trip time of an answered echo request with `bytes` of payload, in milliseconds. */
  ping(address: string, bytes: number): Promise<number>;
  /** The answers as text: addresses, or the strings of TXT records. */
  resolve(query: GuestQuery): Promise<string[]>;
  /** One SNTP exchange. @returns the server's clock as milliseconds since 1970, and its stratum. */
  ntp(server: string): Promise<{ readonly serverMs: number; readonly stratum: number }>;
  /** HTTP GET of a whole body. */
  download(url: string): Promise<GuestTransfer>;
  /** HTTP POST of `bytes` random bytes. @returns what it sent, and the answer's body. */
  upload(url: string, bytes: number): Promise<GuestTransfer & { readonly answer: string }>;
  /** Sends one datagram and waits for the answer. */
  udpExchange(address: string, port: number, payload: string): Promise<string>;
  /** Connects, sends, shuts its sending side down, and reads until the other side ends. */
  sendThenRead(address: string, port: number, payload: string): Promise<string>;
  /** Connects where nobody listens. @returns how the attempt ended, and after how many milliseconds. */
  connectRefused(address: string, port: number): Promise<{ readonly refused: boolean; readonly ms: number }>;
  /** Serves `body` under `/` by HTTP on a port of the guest until `close`. */
  serveHttp(port: number, body: string): Promise<void>;
  /** Ends the guest. Idempotent. */
  close(): Promise<void>;
}

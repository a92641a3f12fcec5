// What a forward is, in plain JSON: what listens, where its clients go, what the other side is told of them, how long it lasts. The control
// API, `--publish` and the state file all speak this; forward-check judges it, forwards keeps the table. Types and the one error class.

/** A TCP or UDP port of the host. Bound exactly as told: `[::]` is IPv6 only unless `v6Only` is false. */
export interface PortListen {
  readonly kind: 'tcp' | 'udp';
  /** An address of the host, without brackets. */
  readonly address: string;
  /** 0: the system chooses; `bound` tells. */
  readonly port: number;
  /** Ports in a row from `port` on, the target's ports running along; 1 if not given. */
  readonly count?: number;
  /** False: `::` takes IPv4 clients as well. True if not given. */
  readonly v6Only?: boolean;
}

/** A unix socket of the host, mode 0600. */
export interface UnixListen {
  readonly kind: 'unix';
  readonly path: string;
}

/** A socket that was bound by whoever started the daemon: `--listen-fd NAME=FD`. */
export interface FdListen {
  readonly kind: 'fd';
  readonly name: string;
  /** `tcp` for any stream socket, unix ones too. */
  readonly protocol: 'tcp' | 'udp';
}

/** A TCP address that guests see: the gateway, the host alias, or an address of the network that no VM has. */
export interface GuestListen {
  readonly kind: 'guest';
  readonly address: string;
  readonly port: number;
  readonly count?: number;
}

/** A port of vsock CID 2 that guests see, by the unix socket that their hypervisor connects to for it. */
export interface VsockListen {
  readonly kind: 'vsock';
  /** Firecracker, cloud-hypervisor: the vsock's own socket. HyperKit: its directory. */
  readonly path: string;
  readonly port: number;
  readonly style?: VsockStyle;
}

/**
 * How a hypervisor hands vsock over as unix sockets. `connect` (Firecracker, cloud-hypervisor; if not given): `CONNECT PORT\n` on
 * PATH towards the guest, `PATH_PORT` from it. `hyperkit`: `CID.PORT\n` in hexadecimal on PATH/connect, PATH/00000002.PORT.
 */
export type VsockStyle = 'connect' | 'hyperkit';

export type ForwardListen = PortListen | UnixListen | FdListen | GuestListen | VsockListen;

/** A port of a guest. */
export interface GuestTarget {
  readonly kind: 'guest';
  /** Its IPv4 address, MAC or DHCP host name; the only VM there is if not given. */
  readonly guest?: string;
  readonly port: number;
}

/** A vsock port of a guest. */
export interface VsockTarget {
  readonly kind: 'vsock';
  readonly path: string;
  readonly port: number;
  readonly style?: VsockStyle;
  /** HyperKit only; 3 if not given. */
  readonly cid?: number;
}

/** A TCP port of the host, or of whatever the host reaches. */
export interface HostTcpTarget {
  readonly kind: 'tcp';
  readonly address: string;
  readonly port: number;
}

/** A unix socket of the host. */
export interface HostUnixTarget {
  readonly kind: 'unix';
  readonly path: string;
}

export type ForwardTarget = GuestTarget | VsockTarget | HostTcpTarget | HostUnixTarget;

/**
 * Whom a guest sees. `transparent`: the client's own address where it is routable in the virtual network without a clash, the host
 * alias for the host's own loopback, else the gateway. `gateway`: always the gateway. `proxy-protocol-v1`, `-v2`: the gateway, and a
 * header of HAProxy's PROXY protocol names the client before the first byte (v2 over UDP: before each datagram).
 */
export type ClientMode = 'transparent' | 'gateway' | 'proxy-protocol-v1' | 'proxy-protocol-v2';
export const CLIENT_MODES: readonly ClientMode[] = ['transparent', 'gateway', 'proxy-protocol-v1', 'proxy-protocol-v2'];

/** How long a forward lasts: until removed, as long as a control connection, or until a time (ISO 8601). */
export type ForwardLease = 'permanent' | 'connection' | { readonly until: string };

/** A forward as it is asked for. */
export interface ForwardSpec {
  /** Names it for idempotency. By default what listens: `tcp:127.0.0.1:8080`, `unix:/run/x.sock`. */
  readonly key?: string;
  readonly listen: ForwardListen;
  readonly target: ForwardTarget;
  /** `transparent` if not given. Only for guests' ports as target. */
  readonly client?: ClientMode;
  /** `permanent` if not given. */
  readonly lease?: ForwardLease;
  readonly owner?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** The same, checked: nothing left open but what may be absent, addresses in canonical text, members in a fixed order. */
export interface CheckedForward extends ForwardSpec {
  readonly key: string;
  readonly client: ClientMode;
  readonly lease: ForwardLease;
}

/** Who asked for it: an option, the control API, or the API before a restart. */
export type ForwardOrigin = 'config' | 'api' | 'state';

/** Plain counters since the forward was made. */
export interface ForwardCounters {
  /** Connections, or UDP clients. */
  readonly connections: number;
  /** Of these, now. */
  readonly active: number;
  /** Clients turned away: no such guest, nobody listens there, or a limit. */
  readonly refused: number;
  readonly bytesToTarget: number;
  readonly bytesToClient: number;
}

/** A forward of the table. A copy: later changes do not show in it. */
export interface Forward {
  /** Unique, and kept over restarts. */
  readonly id: string;
  readonly key: string;
  readonly spec: CheckedForward;
  readonly origin: ForwardOrigin;
  /** ISO 8601. */
  readonly createdAt: string;
  /** `failed`: it was restored, or put back, and what it listens on cannot be had now; tried again every few seconds. */
  readonly state: 'listening' | 'failed';
  /** What is really bound, one entry a port: `ADDRESS:PORT`, IPv6 in brackets, or a path. Empty when failed. */
  readonly bound: readonly string[];
  readonly error?: { readonly code: string; readonly message: string };
  readonly counters: ForwardCounters;
}

/** Who has what was asked for. */
export interface ForwardHolder {
  readonly id: string;
  readonly key: string;
  readonly owner?: string;
}

export interface AddOptions {
  readonly origin?: ForwardOrigin;
  /** Stands for the control connection, for a `connection` lease; handed to `release` when that ends. */
  readonly holder?: object;
  /** A forward of the same key is changed rather than refused. */
  readonly replace?: boolean;
}

export interface Added {
  readonly forward: Forward;
  /** False: it was there already, the same. */
  readonly created: boolean;
}

export interface ForwardFilter {
  readonly key?: string;
  readonly owner?: string;
  readonly origin?: ForwardOrigin;
  /** All of these must be there with these values. */
  readonly labels?: Readonly<Record<string, string>>;
}

/** `up`: it listens. `changed`: it goes on with another spec. `failed`: it should listen and does not. `down`: it is gone. */
export interface ForwardEvent {
  readonly type: 'up' | 'changed' | 'failed' | 'down';
  readonly forward: Forward;
}

/** Codes of what goes wrong with a forward; all of them are public. */
export type ForwardErrorCode =
  | 'ERR_FORWARD_SPEC'
  | 'ERR_FORWARD_EXISTS'
  | 'ERR_PORT_IN_USE'
  | 'ERR_PORT_PRIVILEGED'
  | 'ERR_BIND_NOT_ALLOWED'
  | 'ERR_ADDRESS_NOT_LOCAL'
  | 'ERR_LISTEN_FD'
  | 'ERR_SOCKET_PATH'
  | 'ERR_ADDRESS_TAKEN'
  | 'ERR_GUEST_AMBIGUOUS'
  | 'ERR_FORWARD_LIMIT'
  | 'ERR_HOST_LIMIT'
  | 'ERR_STOPPING'
  | 'ERR_STATE'
  | 'ERR_FORWARD';

/** HTTP status by code. */
export const FORWARD_STATUS: Readonly<Record<ForwardErrorCode, number>> = {
  /** A member is wrong; `field` names it. */
  ERR_FORWARD_SPEC: 400,
  /** The key is taken by another forward. */
  ERR_FORWARD_EXISTS: 409,
  /** What it is to listen on is taken: by `holder`, or by another program. */
  ERR_PORT_IN_USE: 409,
  /** A port that needs a privilege. */
  ERR_PORT_PRIVILEGED: 403,
  /** Outside of `--allow-bind`. */
  ERR_BIND_NOT_ALLOWED: 403,
  /** No interface of the host has the address. */
  ERR_ADDRESS_NOT_LOCAL: 400,
  /** No such `--listen-fd`, or not a socket of that kind. */
  ERR_LISTEN_FD: 400,
  /** The path cannot be made. */
  ERR_SOCKET_PATH: 400,
  /** A guest-facing address that a VM has or is to have. */
  ERR_ADDRESS_TAKEN: 409,
  /** No guest is named, and several VMs are connected. */
  ERR_GUEST_AMBIGUOUS: 409,
  /** Too many forwards. */
  ERR_FORWARD_LIMIT: 429,
  /** Out of descriptors or memory. */
  ERR_HOST_LIMIT: 503,
  /** The daemon ends. */
  ERR_STOPPING: 503,
  /** The state file cannot be written: the forward would not come back. */
  ERR_STATE: 500,
  /** The system refused for another reason. */
  ERR_FORWARD: 500,
};

/** A forward that cannot be had: what is wrong and what would be right, for the one who asked. */
export class ForwardError extends Error {
  override readonly name = 'ForwardError';
  readonly code: ForwardErrorCode;
  /** HTTP status. */
  readonly status: number;
  /** The forward's key, if it had one by then. */
  key: string | undefined;
  /** The member of the spec that is wrong, e.g. `listen.port`. */
  readonly field: string | undefined;
  readonly holder: ForwardHolder | undefined;
  /** Its place in the list, where a list was asked for. */
  at: number | undefined;

  constructor(
    code: ForwardErrorCode,
    message: string,
    more: {
      readonly field?: string;
      readonly holder?: ForwardHolder;
      readonly key?: string;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.status = FORWARD_STATUS[code];
    this.key = more.key;
    this.field = more.field;
    this.holder = more.holder;
  }
}

// The one table of options. Flags, environment, file keys, --help, --print-config and the tests of the man page and
// docs/configuration.md all come from it: an option that is not here does not exist.
//
// Each option's value is text, whatever its source, and its schema turns the text into the typed value.

import type { BindRule } from '../forwarder/forward-check.ts';
import type { VsockTarget } from '../forwarder/forward-spec.ts';
import type { OutboundRule } from '../forwarder/outbound.ts';
import { PingMode } from '../forwarder/ping-mode.ts';
import type { Cidr4, IpAddress } from '../ip/address.ts';
import { formatV4 } from '../ip/address.ts';
import type { ProxyChoice } from '../proxy/settings.ts';
import { type ApiSpec, formatApi, formatGuestApi, type GuestApiSpec, parseApi, parseGuestApi } from './api-spec.ts';
import {
  formatBindRule,
  formatIsolateRule,
  type IsolateRule,
  type NamedDescriptor,
  parseBindRule,
  parseIsolateRule,
  parseNamedDescriptor,
} from './bind-grammar.ts';
import { type DnsOption, formatDnsOption, formatTimesync, parseDnsOption, parseTimesync } from './dns-option.ts';
import { type AUTO, formatOutbound, parseNetworkOrAuto, parseOutbound } from './egress-grammar.ts';
import { LOG_LEVELS, type LogLevel } from './log.ts';
import { type DefaultContext, NONE, type OptionSpec, oneOf, option, orNone, parseSwitch } from './option-spec.ts';
import {
  formatProxyChoice,
  parseNoProxy,
  parseProxy,
  parseProxyListen,
  parseProxyPorts,
  withoutPassword,
} from './proxy-grammar.ts';
import { formatPublishItem, type PublishItem, parsePublishItem } from './publish-item.ts';
import {
  type Endpoint,
  type FixedLease,
  formatDuration,
  formatEndpoint,
  lastHostOf,
  parseDescriptor,
  parseDomain,
  parseDuration,
  parseInteger,
  parseLease,
  parseLoopbackEndpoint,
  parseMemory,
  parsePath,
  parseUnicastMac,
  parseUnicastV4,
} from './value-grammar.ts';
import { parseVmUrl, type VmUrl } from './vm-url.ts';

/** Type of one parsed value, by option name; a repeatable option has a list of these. */
export interface OptionValues {
  vm: VmUrl;
  mtu: number;
  network: Cidr4 | typeof AUTO;
  gateway: IpAddress;
  'gateway-mac': string;
  'host-alias': IpAddress | typeof NONE;
  'outbound-address': OutboundRule;
  ping: PingMode;
  dns: DnsOption;
  domain: string;
  search: string;
  hosts: string;
  'resolv-conf': string;
  timesync: VsockTarget;
  lease: FixedLease;
  'lease-time': number;
  publish: readonly PublishItem[];
  'allow-bind': BindRule;
  'listen-fd': NamedDescriptor;
  isolate: IsolateRule;
  proxy: ProxyChoice;
  'no-proxy': readonly string[];
  'proxy-config': string;
  'proxy-ports': readonly number[];
  'proxy-listen': number;
  memory: number;
  'max-flows': number;
  'udp-max-flows': number;
  'udp-idle': number;
  control: string;
  'control-tcp': Endpoint;
  'control-token-file': string;
  api: ApiSpec;
  'guest-api': GuestApiSpec;
  metrics: Endpoint;
  'state-dir': string;
  'pid-file': string;
  'ready-fd': number;
  'log-level': LogLevel;
  pcap: string;
  strict: boolean;
  config: string;
}

export type OptionName = keyof OptionValues;
/** Where leases are kept when nobody says: systemd's directory, the system's for root, else the user's own. */
function defaultStateDir({ env, uid }: DefaultContext): string {
  const systemd = env.STATE_DIRECTORY?.split(':')[0];
  if (systemd) return systemd;
  if (uid === 0) return '/var/lib/isthmus';
  const xdg = env.XDG_STATE_HOME;
  if (xdg?.startsWith('/')) return `${xdg}/isthmus`;
  return env.HOME ? `${env.HOME}/.local/state/isthmus` : NONE;
}

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;

/** Every option, in the order of --help. */
export const OPTIONS: { readonly [K in OptionName]: OptionSpec<OptionValues[K]> } = {
  vm: option({
    group: 'VMs',
    placeholder: 'URL',
    repeatable: true,
    parse: parseVmUrl,
    format: (vm) => vm.url,
    defaultText: 'none, it must be given',
    help: 'A link for VMs, at least one: qemu:PATH or vpnkit:PATH listens on a unix socket and takes VM after VM; qemu:fd:N and vpnkit:fd:N use an inherited descriptor, connected or listening; qemu:stdio and vpnkit:stdio use standard input and output.',
  }),
  mtu: option({
    group: 'VMs',
    placeholder: 'BYTES',
    parse: (text) => parseInteger(text, 576, 65520, 'bytes'),
    defaultText: '65520 on qemu links, 1500 on vpnkit links',
    help: 'Largest IP packet of a VM, 576 to 65520, told to it by DHCP and by the vpnkit handshake. Nothing above 1500 is sent to a VM that has not shown that it takes it.',
  }),
  isolate: option({
    group: 'VMs',
    placeholder: 'MAC|URL|all',
    repeatable: true,
    parse: parseIsolateRule,
    format: formatIsolateRule,
    help: 'VMs that may not reach other VMs, nor be reached by them: the one with this MAC, all of this --vm, or all there are. The gateway, the outside and published ports are open to them as ever.',
  }),
  network: option({
    group: 'Network',
    placeholder: 'CIDR|auto',
    parse: parseNetworkOrAuto,
    default: '192.168.65.0/24',
    help: 'The IPv4 network of the VMs, /8 to /29. auto takes the first private /24 that no interface and no route of the host has, beginning with 192.168.65.0/24; the readiness line names it.',
  }),
  gateway: option({
    group: 'Network',
    placeholder: 'ADDRESS',
    parse: parseUnicastV4,
    default: ({ network }) => (network === undefined ? undefined : formatV4(network.network + 1)),
    defaultText: 'the first address of the network (192.168.65.1)',
    help: 'Address of the gateway: router, DHCP, DNS and NTP server of the VMs. Inside the network.',
  }),
  'gateway-mac': option({
    group: 'Network',
    placeholder: 'MAC',
    parse: parseUnicastMac,
    default: 'f6:16:36:bc:f9:c6',
    help: "MAC address of the gateway and the host alias; the default is VPNKit's. gvproxy's is 5a:94:ef:e4:0c:dd.",
  }),
  'host-alias': option({
    group: 'Network',
    placeholder: 'ADDRESS|none',
    parse: orNone(parseUnicastV4),
    default: ({ network, gateway }) => (network === undefined ? undefined : lastHostOf(network, gateway)),
    defaultText: 'the last address but the broadcast (192.168.65.254)',
    help: "Address under which VMs reach the host's own loopback; none closes that way. Inside the network.",
  }),
  'outbound-address': option({
    group: 'Network',
    placeholder: '[CIDR=]ADDRESS',
    repeatable: true,
    parse: parseOutbound,
    format: formatOutbound,
    defaultText: 'the host chooses',
    help: 'The address of the host from which TCP, UDP and ping of VMs leave; with CIDR= for those destinations only, of which the most specific counts. An address alone must be there at the start; one of a rule may come later (a VPN), and VMs are told "network unreachable" while it is missing.',
  }),
  ping: option({
    group: 'Network',
    placeholder: 'MODE',
    parse: oneOf(Object.values(PingMode)),
    default: 'auto',
    help: 'What becomes of pings of VMs to the outside: auto has the ping program of the host carry them, and answers "prohibited" where there is none for this user; auto-drop is silent then; unreachable and drop carry none.',
  }),
  dns: option({
    group: 'Names and addresses',
    placeholder: 'ADDRESS|DOMAIN=ADDRESS,...|FILE',
    repeatable: true,
    parse: parseDnsOption,
    format: formatDnsOption,
    defaultText: "the host's own resolvers, from --resolv-conf",
    help: "A DNS server that queries of VMs are forwarded to, ADDRESS[:PORT], in order of preference; IPv6 with a port in brackets. DOMAIN=ADDRESS[:PORT],... names the servers of a domain and all below it; the most specific domain holds. A path (with a slash, or @ in front) is a resolver file in VPNKit's form: nameserver, zone, timeout, order, search; read again when it changes.",
  }),
  'resolv-conf': option({
    group: 'Names and addresses',
    placeholder: 'FILE',
    parse: parsePath,
    default: '/etc/resolv.conf',
    help: "The host's resolver configuration: name servers where no --dns is given, search list where no --search is given. Read again when it changes and on SIGHUP.",
  }),
  hosts: option({
    group: 'Names and addresses',
    placeholder: 'FILE|none',
    parse: orNone(parsePath),
    default: '/etc/hosts',
    help: 'Hosts file whose names VMs can resolve too; none for no such file. Read again when it changes and on SIGHUP.',
  }),
  domain: option({
    group: 'Names and addresses',
    placeholder: 'NAME',
    parse: parseDomain,
    default: 'isthmus.internal',
    help: 'Domain that VMs are told by DHCP, and under which they resolve each other by host name.',
  }),
  search: option({
    group: 'Names and addresses',
    placeholder: 'NAME',
    repeatable: true,
    parse: parseDomain,
    defaultText: "the host's own search list, from --resolv-conf",
    help: 'A domain of the search list that VMs are told by DHCP.',
  }),
  timesync: option({
    group: 'VMs',
    placeholder: 'vsock:PATH:PORT',
    repeatable: true,
    parse: parseTimesync,
    format: formatTimesync,
    help: "A vsock port of a VM on which LinuxKit's host-timesync-daemon listens: it is connected to when the host has slept, so that the VM sets its clock. PATH is the hypervisor's vsock socket (Firecracker, cloud-hypervisor); vsock-hyperkit:DIRECTORY:PORT for HyperKit.",
  }),
  lease: option({
    group: 'Names and addresses',
    placeholder: 'MAC=ADDRESS',
    repeatable: true,
    parse: parseLease,
    format: (lease) => `${lease.mac}=${lease.address}`,
    help: 'A fixed address for the VM with this MAC address. Other VMs get a free address, stable by MAC.',
  }),
  'lease-time': option({
    group: 'Names and addresses',
    placeholder: 'DURATION',
    parse: (text) => parseDuration(text, MINUTE_MS, 365 * DAY_MS),
    format: formatDuration,
    default: '1h',
    help: 'How long a DHCP lease holds before a VM must renew it.',
  }),
  publish: option({
    group: 'Published ports',
    placeholder: 'SPEC',
    repeatable: true,
    parse: parsePublishItem,
    format: (items) => items.map(formatPublishItem),
    help: 'Publishes a port of a VM on the host: [tcp:|udp:]HOSTADDR:HOSTPORT:GUESTADDR:GUESTPORT, or [HOSTADDR:][HOSTPORT:]GUESTPORT[/udp] as docker run -p has it. Without HOSTADDR it is 0.0.0.0, every IPv4 address of the host; without HOSTPORT a free one, told in the readiness line; without GUESTADDR the only VM there is. Ranges of equal length: 8000-8010:80-90. IPv6 in brackets. GUESTADDR may be a MAC in brackets or a DHCP host name. Also QEMU hostfwd=... and guestfwd=..., and passt tcp-ports=... and udp-ports=.... ?client=gateway or ?client=proxy-protocol-v2 behind it changes as whom clients appear; see docs/configuration.md.',
  }),
  'allow-bind': option({
    group: 'Published ports',
    placeholder: 'ADDRESS[/PREFIX]',
    repeatable: true,
    parse: parseBindRule,
    format: formatBindRule,
    defaultText: 'every address',
    help: 'Only these addresses of the host, or networks of addresses, may be listened on for published ports. 0.0.0.0 and [::] stand for themselves: they are allowed where they are named, or all is (0.0.0.0/0).',
  }),
  'listen-fd': option({
    group: 'Published ports',
    placeholder: 'NAME=FD',
    repeatable: true,
    parse: parseNamedDescriptor,
    format: ({ name, fd }) => `${name}=${fd}`,
    help: 'An inherited socket that is bound already (TCP, UDP or unix), for ports that need a privilege: published as hostfwd=fd:NAME-:GUESTPORT, or by the control API.',
  }),
  proxy: option({
    group: 'Proxies',
    placeholder: 'URL|PAC|system|none',
    parse: parseProxy,
    format: formatProxyChoice,
    shown: withoutPassword,
    default: 'none',
    help: 'The proxy through which guests reach the outside at the ports of --proxy-ports: http://, https:// or socks5://[USER:PASSWORD@]HOST[:PORT]; pac+http://HOST/FILE or pac:/FILE for a PAC file; system for what HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say, or on macOS the system settings.',
  }),
  'no-proxy': option({
    group: 'Proxies',
    placeholder: 'LIST',
    repeatable: true,
    parse: parseNoProxy,
    format: (entries) => entries,
    help: 'Destinations that go past the proxy, with commas between: domains (and all below them), addresses, networks like 10.0.0.0/8, each with or without :PORT, and * for any text.',
  }),
  'proxy-config': option({
    group: 'Proxies',
    placeholder: 'FILE',
    parse: parsePath,
    help: "VPNKit's JSON file of proxies (http, https, exclude, transparent_http_ports, transparent_https_ports), in place of --proxy. Read again when it changes.",
  }),
  'proxy-ports': option({
    group: 'Proxies',
    placeholder: 'PORTS',
    parse: parseProxyPorts,
    format: (ports) => ports.join(','),
    default: '80,443',
    help: 'Ports whose flows go through the proxy without the guest knowing, with commas between.',
  }),
  'proxy-listen': option({
    group: 'Proxies',
    placeholder: 'PORT',
    parse: parseProxyListen,
    defaultText: '3128, while a proxy is set',
    help: 'Port of the gateway where guests that know of it find an HTTP proxy. It is there when a proxy is set, or this option is given.',
  }),
  memory: option({
    group: 'Limits',
    placeholder: 'MIB',
    parse: (text) => parseMemory(text, 8, 1024),
    format: (bytes) => String(bytes / (1024 * 1024)),
    default: '64',
    help: 'Size of the packet memory in MiB, a power of two from 8 to 1024. When it is full, windows close; no flow dies.',
  }),
  'max-flows': option({
    group: 'Limits',
    placeholder: 'N',
    parse: (text) => parseInteger(text, 16, 1_000_000, ''),
    default: '16384',
    help: 'Most TCP flows at once; further ones are refused and counted.',
  }),
  'udp-max-flows': option({
    group: 'Limits',
    placeholder: 'N',
    parse: (text) => parseInteger(text, 16, 65_535, ''),
    default: '4096',
    help: 'Most UDP flows at once, each a host socket; beyond it the one that is idle longest ends.',
  }),
  'udp-idle': option({
    group: 'Limits',
    placeholder: 'DURATION',
    parse: (text) => parseDuration(text, 1000, DAY_MS),
    format: formatDuration,
    default: '2m',
    help: 'How long a UDP flow without traffic is kept. RFC 4787 asks for two minutes at least.',
  }),
  control: option({
    group: 'Control',
    placeholder: 'PATH',
    parse: parsePath,
    help: 'Unix socket of the control API (/v1, /healthz, /metrics), mode 0600. isthmus publish, ports, vms and the other commands find it by the same option or variable.',
  }),
  'control-tcp': option({
    group: 'Control',
    placeholder: 'ADDRESS:PORT',
    parse: parseLoopbackEndpoint,
    format: (at) => formatEndpoint(at.address, at.port),
    help: 'Serves the control API on this TCP port too, for who has the token of --control-token-file or ISTHMUS_CONTROL_TOKEN. Loopback addresses only. Port 0 for any free one.',
  }),
  'control-token-file': option({
    group: 'Control',
    placeholder: 'FILE',
    parse: parsePath,
    help: 'File whose first line is the bearer token of --control-tcp, 16 characters or more. In place of it the variable ISTHMUS_CONTROL_TOKEN may hold the token.',
  }),
  api: option({
    group: 'Control',
    placeholder: 'NAME:PATH',
    repeatable: true,
    parse: parseApi,
    format: formatApi,
    help: "Speaks another program's control protocol on a unix socket, mode 0600, on the same forwards: gvproxy (HTTP API of gvisor-tap-vsock), slirp4netns (its JSON API socket), vpnkit (HTTP API of vpnkit-forwarder).",
  }),
  'guest-api': option({
    group: 'Control',
    placeholder: 'gvproxy[:token=SECRET|allow=CIDR]',
    parse: parseGuestApi,
    format: formatGuestApi,
    defaultText: 'off',
    help: "Lets guests publish ports of theirs by gvproxy's API at port 80 of the gateway: all guests, those that send the token as a bearer token, or those in the networks of allow=CIDR,CIDR; both with ';' between.",
  }),
  metrics: option({
    group: 'Daemon',
    placeholder: 'ADDRESS:PORT',
    parse: parseLoopbackEndpoint,
    format: (at) => formatEndpoint(at.address, at.port),
    help: 'Serves /metrics and /healthz on this TCP port too. Loopback addresses only, as there is no access control. Port 0 for any free one.',
  }),
  'state-dir': option({
    group: 'Daemon',
    placeholder: 'DIR|none',
    parse: orNone(parsePath),
    default: defaultStateDir,
    defaultText: '$STATE_DIRECTORY; /var/lib/isthmus for root; $XDG_STATE_HOME/isthmus or ~/.local/state/isthmus',
    help: 'Directory for what outlives a restart: DHCP leases, and forwards and DNS records of the control API; made if it is missing. none keeps all that in memory only.',
  }),
  'pid-file': option({
    group: 'Daemon',
    placeholder: 'FILE',
    parse: parsePath,
    help: 'File for the process id, written once everything listens and removed at the end. A live process in it stops the start.',
  }),
  'ready-fd': option({
    group: 'Daemon',
    placeholder: 'N',
    parse: parseDescriptor,
    help: 'Inherited descriptor that gets the readiness line too, and is then closed.',
  }),
  'log-level': option({
    group: 'Finding faults',
    placeholder: 'LEVEL',
    parse: oneOf(LOG_LEVELS),
    default: 'info',
    help: 'Least level that is logged to standard error, as lines of JSON: trace, debug, info, warn, error, fatal, or silent.',
  }),
  pcap: option({
    group: 'Finding faults',
    placeholder: 'FILE',
    parse: parsePath,
    help: 'Writes every frame of every VM to this pcapng file.',
  }),
  strict: option({
    group: 'Finding faults',
    placeholder: '',
    parse: parseSwitch,
    default: 'false',
    help: 'Ends the daemon at the first contradiction that it finds in itself, rather than the flow alone. For tests.',
  }),
  config: option({
    group: 'Daemon',
    placeholder: 'FILE',
    parse: parsePath,
    help: 'YAML (or JSON) file of options: each key is a flag without its dashes, a repeatable one takes a list.',
  }),
};

/** All option names in the order of --help. */
export const OPTION_NAMES: readonly OptionName[] = Object.keys(OPTIONS) as OptionName[];

/** `ISTHMUS_LOG_LEVEL` of `log-level`. */
export function envNameOf(name: OptionName): string {
  return `ISTHMUS_${name.toUpperCase().replaceAll('-', '_')}`;
}

/** Whether a word is an option's name. */
export function isOptionName(word: string): word is OptionName {
  return Object.hasOwn(OPTIONS, word);
}

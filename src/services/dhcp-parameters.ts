// What clients are told about the network: the options of a reply beyond address and lease, those that were asked for and no
// others (RFC 2131 4.3.1, RFC 2132, 3397, 3442). Values that do not change are encoded once.

import { getU8 } from '../base/bytes.ts';
import type { Cidr4 } from '../ip/address.ts';
import type { DhcpBuilder } from './dhcp-builder.ts';
import { type DhcpMessage, DhcpOption } from './dhcp-message.ts';
import {
  type ClasslessRoute,
  encodeAddresses,
  encodeRoutes,
  encodeSearchList,
  isDomainName,
  type SearchList,
} from './dhcp-values.ts';

/** What guests are told. Addresses are int32. */
export interface DhcpOptions {
  readonly gateway: number;
  /** Option 6; the gateway, normally. */
  readonly dns: readonly number[];
  /** Option 42; the gateway, normally. */
  readonly ntp: readonly number[];
  /** Option 15, or ''. */
  readonly domain: string;
  /** Option 119. */
  readonly search: readonly string[];
  /** Option 121; with none, it is not sent. */
  readonly routes: readonly ClasslessRoute[];
  /** MTU of a VM's link, for option 26. */
  readonly mtuOf: (vmId: number) => number;
}

/** What a client cannot do without: for messages without option 55. */
const DEFAULT_LIST = Uint8Array.of(
  DhcpOption.SubnetMask,
  DhcpOption.Router,
  DhcpOption.DnsServers,
  DhcpOption.DomainName,
);

export class DhcpParameters {
  readonly #options: DhcpOptions;
  readonly #network: Cidr4;
  readonly #sent = new Uint8Array(256);
  readonly #dns: Uint8Array;
  readonly #ntp: Uint8Array;
  readonly #routes: Uint8Array;
  #domain = '';
  #search: SearchList = encodeSearchList([]);

  constructor(options: DhcpOptions, network: Cidr4) {
    this.#options = options;
    this.#network = network;
    this.#dns = encodeAddresses(options.dns);
    this.#ntp = encodeAddresses(options.ntp);
    this.#routes = options.routes.length === 0 ? new Uint8Array(0) : encodeRoutes(options.routes, options.gateway);
    this.setDomains(options.domain, options.search);
  }

  setDomains(domain: string, search: readonly string[]): void {
    this.#domain = isDomainName(domain) ? domain : '';
    this.#search = encodeSearchList(search);
  }

  /** The parameters the client asked for, in its order (RFC 2132 9.8), but the mask before the router (RFC 2132 3.3). */
  addAsked(msg: DhcpMessage, out: DhcpBuilder, vmId: number, hostName: string): void {
    const listLen = msg.optionLen(DhcpOption.ParameterList);
    const list = listLen < 0 ? DEFAULT_LIST : msg.options;
    const from = listLen < 0 ? 0 : msg.optionOff(DhcpOption.ParameterList);
    const to = from + (listLen < 0 ? DEFAULT_LIST.length : listLen);
    const sent = this.#sent.fill(0);
    let mask = false;
    let routes = false;
    for (let i = from; i < to; i++) {
      if (getU8(list, i) === DhcpOption.SubnetMask) mask = true;
      if (getU8(list, i) === DhcpOption.ClasslessRoutes) routes = this.#routes.length > 0;
    }
    for (let i = from; i < to; i++) {
      const code = getU8(list, i);
      if (sent[code] !== 0) continue;
      sent[code] = 1;
      if (code === DhcpOption.Router) {
        if (routes) continue;
        if (mask && sent[DhcpOption.SubnetMask] === 0) {
          sent[DhcpOption.SubnetMask] = 1;
          this.#add(DhcpOption.SubnetMask, out, vmId, hostName);
        }
      }
      this.#add(code, out, vmId, hostName);
    }
  }

  #add(code: number, out: DhcpBuilder, vmId: number, hostName: string): void {
    const network = this.#network;
    switch (code) {
      case DhcpOption.SubnetMask:
        out.addU32(code, network.mask);
        break;
      case DhcpOption.Router:
        out.addU32(code, this.#options.gateway);
        break;
      case DhcpOption.DnsServers:
        if (this.#dns.length > 0) out.addBytes(code, this.#dns, 0, this.#dns.length);
        break;
      case DhcpOption.HostName:
        if (hostName !== '') out.addText(code, hostName);
        break;
      case DhcpOption.DomainName:
        if (this.#domain !== '') out.addText(code, this.#domain);
        break;
      case DhcpOption.InterfaceMtu:
        out.addU16(code, this.#options.mtuOf(vmId));
        break;
      case DhcpOption.BroadcastAddress:
        out.addU32(code, network.broadcast);
        break;
      case DhcpOption.NtpServers:
        if (this.#ntp.length > 0) out.addBytes(code, this.#ntp, 0, this.#ntp.length);
        break;
      case DhcpOption.DomainSearch:
        this.#addSearch(out);
        break;
      case DhcpOption.ClasslessRoutes:
        if (this.#routes.length > 0) out.addBytes(code, this.#routes, 0, this.#routes.length);
        break;
    }
  }

  /** As many of the search domains as there is room for. */
  #addSearch(out: DhcpBuilder): void {
    const { bytes, ends } = this.#search;
    let n = ends.length - 1;
    while (n > 0 && !out.fits(ends[n]!)) n--;
    if (n >= 0) out.addBytes(DhcpOption.DomainSearch, bytes, 0, ends[n]!);
  }
}

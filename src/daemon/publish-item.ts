// Whatever `--publish` takes: our own and docker's grammar (publish-spec), passt's (publish-passt) and QEMU's (publish-qemu), each with what may
// stand behind it: `?client=MODE&v6only=no`.

import { CLIENT_MODES, type ClientMode, type ForwardSpec } from '../forwarder/forward-spec.ts';
import { cutPasst, parsePasst } from './publish-passt.ts';
import { formatQemu, parseQemu } from './publish-qemu.ts';
import { formatPublish, type PublishSpec, parsePublish } from './publish-spec.ts';
import { GrammarError } from './value-grammar.ts';

/** A published port, or a forward that is none. */
export type PublishItem = PublishSpec | { readonly forward: ForwardSpec };

interface Extras {
  readonly client?: ClientMode;
  readonly v6Only?: false;
}

/** @throws GrammarError */
export function parsePublishItem(text: string): readonly PublishItem[] {
  const mark = text.lastIndexOf('?');
  const extras = mark < 0 ? {} : parseExtras(text.slice(mark + 1));
  const body = mark < 0 ? text : text.slice(0, mark);
  const passt = cutPasst(body);
  const qemu = /^(hostfwd|guestfwd)=(.*)$/s.exec(body);
  if (qemu !== null) return [withExtras(itemOf(parseQemu(qemu[1] as 'hostfwd' | 'guestfwd', qemu[2]!)), extras)];
  const specs = passt === undefined ? parsePublish(body) : parsePasst(passt.protocol, passt.rest);
  return specs.map((spec) => withExtras(spec, extras));
}

/** The text of one, which `parsePublishItem` reads back. */
export function formatPublishItem(item: PublishItem): string {
  const { client, v6Only } = 'forward' in item ? { client: item.forward.client, v6Only: undefined } : item;
  const extras = [...(client === undefined ? [] : [`client=${client}`]), ...(v6Only === false ? ['v6only=no'] : [])];
  const body = 'forward' in item ? formatQemu(item.forward) : formatPublish(item);
  return extras.length === 0 ? body : `${body}?${extras.join('&')}`;
}

/** As the table of forwards takes it. */
export function forwardOf(item: PublishItem): ForwardSpec {
  if ('forward' in item) return item.forward;
  const { protocol, hostAddress, hostPort, guestAddress, guestName, guestPort, client, v6Only } = item;
  const guest = guestName ?? guestAddress?.toString();
  return {
    listen: {
      kind: protocol,
      address: hostAddress.toString(),
      port: hostPort,
      ...(v6Only === undefined ? {} : { v6Only }),
    },
    target: { kind: 'guest', ...(guest === undefined ? {} : { guest }), port: guestPort },
    ...(client === undefined ? {} : { client }),
  };
}

/** A port of the host that leads to a port of a guest is the same, in whatever grammar it was written. */
function itemOf(forward: ForwardSpec): PublishItem {
  const { listen, target } = forward;
  if ((listen.kind !== 'tcp' && listen.kind !== 'udp') || target.kind !== 'guest') return { forward };
  const text = `${listen.kind}:${bracketed(listen.address)}:${listen.port}:${bracketed(target.guest ?? '')}:${target.port}`;
  return parsePublish(text)[0]!;
}

function withExtras(item: PublishItem, extras: Extras): PublishItem {
  const { client, v6Only } = extras;
  if (client === undefined && v6Only === undefined) return item;
  if (!('forward' in item)) {
    if (v6Only === false && item.hostAddress.isV4) {
      throw new GrammarError(
        'says v6only=no of an IPv4 address',
        'that of an IPv6 address, like [::]:8080:80?v6only=no',
      );
    }
    return { ...item, ...extras };
  }
  if (v6Only !== undefined) throw new GrammarError('says v6only of no port of the host', 'client=MODE alone');
  return { forward: { ...item.forward, ...(client === undefined ? {} : { client }) } };
}

function parseExtras(text: string): Extras {
  const right = `client=${CLIENT_MODES.join('|')} or v6only=yes|no, joined by &`;
  let extras: Extras = {};
  for (const part of text.split('&')) {
    const [name, value] = part.split('=');
    const client = CLIENT_MODES.find((mode) => mode === value);
    if (name === 'client' && client !== undefined) extras = { ...extras, client };
    else if (name === 'v6only' && value === 'no') extras = { ...extras, v6Only: false };
    else if (name !== 'v6only' || value !== 'yes') throw new GrammarError(`has "${part}" behind its "?"`, right);
  }
  return extras;
}

function bracketed(text: string): string {
  return text.includes(':') ? `[${text}]` : text;
}

// The Linux VM as a guest of the demo: each request becomes a short bash script run inside the VM over its serial line.
// bash opens TCP and UDP connections itself (/dev/tcp, /dev/udp) and has a microsecond clock; the rest is busybox.

import type { Machine } from '../vm/machine.ts';
import { decodeAnswers, encodeQuery } from './dns-wire.ts';
import type { GuestDriver, GuestLease, GuestQuery, GuestTransfer } from './guest-driver.ts';

/** Starts a stopwatch without a fork; ELAPSED prints what it shows, in microseconds. */
const START = `t0=\${EPOCHREALTIME/[.,]/}`;
const ELAPSED = `us=$(( \${EPOCHREALTIME/[.,]/} - t0 ))`;

/** Seconds between 1900 (NTP) and 1970 (Unix). */
const NTP_TO_UNIX = 2_208_988_800;

/** Exit status of a script that the guest ended because its time was over. */
const KILLED = 137;

function field(output: string, name: string): string {
  return new RegExp(`^${name}=(.*)$`, 'm').exec(output)?.[1]?.trim() ?? '';
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}

/** Drives a VM that has been booted. */
export class VmGuest implements GuestDriver {
  readonly description: string;
  readonly #machine: Machine;
  #queryId = 0x1d00;

  constructor(machine: Machine) {
    this.#machine = machine;
    this.description = `Linux VM under QEMU (${machine.accel})`;
  }

  /** Runs a script; a failing one rejects with what it printed. */
  async #run(script: string, timeoutMs = 30_000): Promise<string> {
    const { status, output } = await this.#machine.run(script, timeoutMs);
    if (status === KILLED) throw new Error(`not done after ${timeoutMs / 1000} s in the guest`);
    if (status !== 0) throw new Error(output.trim().split('\n').slice(-3).join(' | ') || `exit status ${status}`);
    return output;
  }

  async lease(): Promise<GuestLease> {
    const output = await this.#run(`
[ -f /run/udhcpc.pid ] && kill "$(cat /run/udhcpc.pid)" 2>/dev/null
rm -f /run/lease
udhcpc -i eth0 -n -t 10 -T 1 -O mtu -O search -O ntpsrv -x "hostname:$(hostname)" -p /run/udhcpc.pid || exit 1
cat /run/lease`);
    const mtu = Number(field(output, 'mtu') || '1500');
    return {
      address: field(output, 'ip'),
      prefix: Number(field(output, 'mask')),
      router: field(output, 'router'),
      dns: words(field(output, 'dns')),
      ntp: words(field(output, 'ntp')),
      mtu,
      domain: field(output, 'domain'),
      leaseSeconds: Number(field(output, 'lease')),
    };
  }

  async ping(address: string, bytes: number): Promise<number> {
    const output = await this.#run(`ping -c 2 -i 0.2 -W 3 -s ${bytes} ${address}`);
    const times = [...output.matchAll(/time=([\d.]+) ms/g)].map((found) => Number(found[1]));
    if (times.length !== 2) throw new Error(`${times.length} of 2 echo replies from ${address}`);
    return Math.min(...times);
  }

  async resolve(query: GuestQuery): Promise<string[]> {
    const id = this.#queryId++;
    const message = encodeQuery(query, id);
    const tcp = query.transport === 'tcp';
    const length = Buffer.alloc(2);
    length.writeUInt16BE(message.length);
    const wire = (tcp ? Buffer.concat([length, message]) : message).toString('hex').replace(/../g, '\\x$&');
    // One write per datagram: bash's printf flushes at a newline, which a DNS message may well contain, so dd sends it.
    // Byte by byte over TCP, so that reading the length takes nothing of the message.
    const read = tcp
      ? `size=$(timeout 6 dd bs=1 count=2 <&3 2>/dev/null | xxd -p)
[ -n "$size" ] && timeout 6 dd bs=1 count=$((16#$size)) <&3 2>/dev/null | xxd -p`
      : `timeout 6 dd bs=65536 count=1 <&3 2>/dev/null | xxd -p`;
    const output = await this.#run(`
exec 3<>/dev/${query.transport}/${query.server}/53 || exit 8
printf '${wire}' >/run/query
dd if=/run/query bs=65536 count=1 >&3 2>/dev/null
${read}`);
    const reply = Buffer.from(output.replace(/\s/g, ''), 'hex');
    if (reply.length === 0) throw new Error(`no answer from ${query.server} by ${query.transport}`);
    return decodeAnswers(reply, query, id);
  }

  async ntp(server: string): Promise<{ serverMs: number; stratum: number }> {
    // LI 0, version 4, mode 3 (client); our transmit timestamp comes back as the origin timestamp (RFC 4330 section 5).
    const request = Buffer.alloc(48);
    request[0] = 0x23;
    request.write('isthmus!', 40, 'latin1');
    const output = await this.#run(`
exec 3<>/dev/udp/${server}/123
printf '${request.toString('hex').replace(/../g, '\\x$&')}' >/run/query
dd if=/run/query bs=48 count=1 >&3 2>/dev/null
timeout 5 dd bs=1024 count=1 <&3 2>/dev/null | xxd -p`);
    const reply = Buffer.from(output.replace(/\s/g, ''), 'hex');
    if (reply.length < 48) throw new Error(`no answer from ${server}`);
    if ((reply[0]! & 7) !== 4) throw new Error(`mode ${reply[0]! & 7} instead of 4 (server)`);
    if (reply.toString('latin1', 24, 32) !== 'isthmus!') throw new Error('the origin timestamp is not ours');
    const seconds = reply.readUInt32BE(40) - NTP_TO_UNIX + reply.readUInt32BE(44) / 2 ** 32;
    return { serverMs: seconds * 1000, stratum: reply[1]! };
  }

  async download(url: string): Promise<GuestTransfer> {
    // First to a file, so that the time is the network's and not the hash's.
    const output = await this.#run(
      `${START}
wget -q -O /tmp/down '${url}' || exit 1
${ELAPSED}
echo "us=$us"
echo "bytes=$(stat -c %s /tmp/down)"
echo "sha256=$(sha256sum /tmp/down)"
rm /tmp/down`,
      120_000,
    );
    return this.#transfer(output);
  }

  async upload(url: string, bytes: number): Promise<GuestTransfer & { answer: string }> {
    const { host, hostname, port, pathname, search } = new URL(url);
    const head = `POST ${pathname}${search} HTTP/1.0\\r\\nHost: ${host}\\r\\nContent-Length: ${bytes}\\r\\n\\r\\n`;
    const output = await this.#run(
      `head -c ${bytes} /dev/urandom >/tmp/up
${START}
exec 3<>/dev/tcp/${hostname}/${port || 80} || exit 1
printf '${head}' >&3
cat /tmp/up >&3 || exit 1
cat <&3 >/run/answer
${ELAPSED}
echo "us=$us"
echo "bytes=$(stat -c %s /tmp/up)"
echo "sha256=$(sha256sum /tmp/up)"
echo "answer=$(sed -n '$p' /run/answer)"
rm /tmp/up`,
      120_000,
    );
    return { ...this.#transfer(output), answer: field(output, 'answer') };
  }

  #transfer(output: string): GuestTransfer {
    return {
      bytes: Number(field(output, 'bytes')),
      sha256: field(output, 'sha256').split(' ')[0]!,
      ms: Number(field(output, 'us')) / 1000,
    };
  }

  async udpExchange(address: string, port: number, payload: string): Promise<string> {
    const output = await this.#run(`
exec 3<>/dev/udp/${address}/${port}
echo '${Buffer.from(payload).toString('base64')}' | base64 -d >/run/payload
dd if=/run/payload bs=65536 count=1 >&3 2>/dev/null
timeout 5 dd bs=65536 count=1 <&3 2>/dev/null | base64 -w 0`);
    if (output.trim() === '') throw new Error('no answer');
    return Buffer.from(output.trim(), 'base64').toString();
  }

  async sendThenRead(address: string, port: number, payload: string): Promise<string> {
    // nc shuts its sending side down when its input ends, and goes on reading.
    const sent = Buffer.from(payload).toString('base64');
    return this.#run(`echo '${sent}' | base64 -d | timeout 10 nc ${address} ${port}`);
  }

  async connectRefused(address: string, port: number): Promise<{ refused: boolean; ms: number }> {
    const output = await this.#run(`${START}
{ exec 3<>/dev/tcp/${address}/${port}; } 2>/run/why
${ELAPSED}
echo "us=$us"
echo "refused=$(cat /run/why)"`);
    return { refused: field(output, 'refused').includes('refused'), ms: Number(field(output, 'us')) / 1000 };
  }

  async serveHttp(port: number, body: string): Promise<void> {
    await this.#run(`
mkdir -p /www && echo '${Buffer.from(body).toString('base64')}' | base64 -d >/www/index.html
httpd -p ${port} -h /www`);
  }

  close(): Promise<void> {
    return this.#machine.stop();
  }
}

// Corners of receiving, opening and closing, each a rule that holds where two others meet.

import { type Script, script } from '../helpers/script.ts';

const must = (ok: boolean, what: string): void => {
  if (!ok) throw new Error(what);
};

/** The host stops reading, and the guest fills our window. */
function fill(s: Script): void {
  s.host.pause();
  for (let i = 0; i < 5000; i++) {
    const c = s.connection!;
    const window = (c.rcvAdv - c.rcvNxt) | 0;
    if (window <= 0) break;
    s.guest({ data: Math.min(window, 1460) });
    s.advance(50);
    s.drain();
  }
}

/** To TIME-WAIT, the host ending first. */
function timeWait(s: Script, options = {}): void {
  s.establish(options);
  s.host.end();
  s.expect({ fin: true });
  s.guest({ fin: true });
  s.expect({ ack: 2 });
}

script('TCP-SEQ-03 TCP-RST-02 own window closed: RST at RCV.NXT counts, with data on it', (s) => {
  s.establish();
  fill(s);
  s.guest({ rst: true, data: 5 });
  s.expectState('gone');
});

script('TCP-SEQ-03 TCP-RST-02 own window closed: RST at RCV.NXT counts, with SYN on it', (s) => {
  s.establish();
  fill(s);
  s.guest({ rst: true, syn: true });
  s.expectState('gone');
});

script('TCP-RST-03 TCP-RST-05 RST that begins left of the window: silence, however far it reaches', (s) => {
  s.establish();
  s.guest({ data: 100 });
  s.drain();
  s.guest({ rst: true, seq: 50, data: 200 });
  s.expectSilence(10);
  s.expectState('ESTABLISHED');
});

script('TCP-RST-03 RST exactly at the right edge lies outside: silence', (s) => {
  s.establish();
  const c = s.connection!;
  s.guest({ rst: true, seq: 1 + ((c.rcvAdv - c.rcvNxt) | 0) });
  s.expectSilence(10);
});

script('TCP-SYN-08 TCP-TW-02 SYN+FIN does not end TIME-WAIT', (s) => {
  timeWait(s);
  s.guest({ syn: true, fin: true, seq: 100_000 });
  s.drain();
  s.expectState('TIME-WAIT');
});

script('TCP-SYN-08 TCP-SYN-15 SYN+FIN with another ISN does not end SYN-RECEIVED', (s) => {
  s.guest({ syn: true, seq: 0, mss: 1460 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
  s.guest({ syn: true, fin: true, seq: 5000 });
  s.drain();
  s.expectState('SYN-RECEIVED');
});

script('TCP-SYN-08 TCP-SYN-02 SYN+FIN does not take the place of a SYN that waits for the host', (s) => {
  s.guest({ syn: true, seq: 0 });
  s.guest({ syn: true, fin: true, seq: 5000 });
  s.host.accept();
  s.expect({ synAck: true, ack: 1 });
});

script('TCP-SEQ-08 TIME-WAIT: without the ACK bit nothing is answered', (s) => {
  timeWait(s);
  s.guest({ ack: false, seq: 2 });
  s.expectSilence(10);
});

script('TCP-TW-02 a SYN that the caps refuse does not end TIME-WAIT', { limits: { pendingMax: 1 } }, (s) => {
  timeWait(s);
  s.newFlow().guest({ syn: true, seq: 0 });
  s.guest({ syn: true, seq: 100_000 });
  s.drain();
  s.expectState('TIME-WAIT');
});

script('TCP-FCS-01 TCP-FIN-12 FIN with data that is sent again keeps to a window that has shrunk', (s) => {
  s.establish({ ws: false, win: 2000 });
  s.host.write(2000);
  s.expect({ data: 1000 });
  s.expect({ data: 1000 });
  s.host.write(100);
  s.host.end();
  s.guest({ ack: 2001, win: 5000 });
  s.lose({ seq: 2001, data: 100, fin: true });
  s.guest({ ack: 2001, win: 100 });
  s.advance(1500);
  const got = s.drain();
  must(got.length > 0, 'resent');
  for (const g of got) must(s.flow.seqOf(g) + g.payload.length + (g.flags & 1) <= 2101, 'beyond the window');
});

script('TCP-ASM-04 bytes beyond the FIN are dropped, also when they came first', (s) => {
  s.establish();
  s.guest({ seq: 151, data: 150 });
  s.expect({ ack: 1, sack: [[151, 301]] });
  s.guest({ seq: 1, data: 150, fin: true });
  s.drain();
  s.host.expectRead(150);
  s.host.expectEof();
});

script('TCP-ASM-04 a FIN in the middle of what is held ends the stream there', (s) => {
  s.establish();
  s.guest({ seq: 51, data: 50 });
  s.expect({ ack: 1 });
  s.guest({ seq: 76, fin: true });
  s.drain();
  s.guest({ seq: 1, data: 50 });
  s.drain();
  s.host.expectRead(75);
  s.host.expectEof();
});

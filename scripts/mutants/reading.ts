// Broken rules of what is read and kept: ranges beyond a hole, options, sequence numbers, what a SYN settles.

import { type Mutant, mutantsOf } from './mutant.ts';

export const READING: readonly Mutant[] = [
  ...mutantsOf('src/tcp/assembler.ts', [
    [
      'out-of-order-cap-ignored',
      'CVE-2018-5390 (TCP-ASM-05)',
      'ranges beyond the cap are said to be held',
      'assembler',
      '    if (merged === 0 && this.count === this.#max) return false;\n',
      '    if (merged === 0 && this.count === this.#max) return true;\n',
    ],
    [
      'ranges-not-merged',
      'RFC 2018 4 (TCP-ASM-07)',
      'ranges that touch stay apart',
      'reassembly',
      'seqLeq(e[2 * end]!, right)',
      'seqLt(e[2 * end]!, right)',
    ],
  ]),
  ...mutantsOf('src/tcp/segment.ts', [
    [
      'option-length-zero',
      'RFC 9293 MUST-7 (TCP-OPT-03)',
      'an option of length 0 is walked over for ever',
      'options',
      'if (len < 2 || at + len > end) return;',
      'if (at + len > end) return;',
    ],
    [
      'option-overrun',
      'RFC 9293 MUST-7 (TCP-OPT-04)',
      'an option that is longer than the header is read on into the payload',
      'edges',
      'if (len < 2 || at + len > end) return;',
      'if (len < 2) return;',
    ],
    [
      'data-offset-past-the-end',
      'RFC 9293 3.1 (TCP-OPT-01)',
      'a header longer than the packet is taken',
      'options',
      'if (dataOff < TCP_HEADER || off + dataOff > end) return',
      'if (dataOff < TCP_HEADER) return',
    ],
    [
      'odd-sack-option',
      'RFC 2018 3 (TCP-OPT-14)',
      'a SACK option of a length that no blocks have is read',
      'edges',
      'len >= 10 && (len - 2) % 8 === 0',
      'len >= 10',
    ],
  ]),
  ...mutantsOf('src/tcp/seq.ts', [
    [
      'no-wraparound',
      'RFC 9293 3.4 (TCP-SEQ-13)',
      'sequence numbers are compared as plain numbers',
      'acceptability',
      'return ((a - b) | 0) < 0;',
      'return a >>> 0 < b >>> 0;',
    ],
  ]),
  ...mutantsOf('src/tcp/handshake.ts', [
    [
      'default-mss',
      'RFC 9293 MUST-15 (TCP-OPT-06)',
      "a guest that names no MSS gets the link's",
      'options',
      'seg.mss < 0 ? (c.guest.isV4 ? DEFAULT_MSS_V4 : DEFAULT_MSS_V6)',
      'seg.mss < 0 ? (c.guest.isV4 ? c.linkMss : DEFAULT_MSS_V6)',
    ],
    [
      'mss-floor',
      'CVE-2019-11479 (TCP-OPT-07)',
      'an MSS of 1 is believed',
      'options',
      'Math.max(seg.mss, limits.mssFloor)',
      'Math.max(seg.mss, 1)',
    ],
    [
      'window-scale-above-14',
      'RFC 7323 2.3 (TCP-OPT-11)',
      'a window scale of 15 is used',
      'options',
      'Math.min(seg.wndShift, MAX_WND_SHIFT)',
      'Math.min(seg.wndShift, MAX_WND_SHIFT + 1)',
    ],
    [
      'syn-window-scaled',
      'RFC 7323 2.2 (TCP-SYN-10)',
      "the window of the guest's SYN is scaled",
      'edges',
      '  c.sndWnd = seg.segWnd;\n',
      '  c.sndWnd = seg.segWnd << c.sndWndShift;\n',
    ],
    [
      'mss-above-half-window',
      'RFC 9293 3.8.6.2.1',
      "segments larger than half of the guest's first window are sent",
      'send-window',
      'if (c.firstWnd > 0) c.effSndMss =',
      'if (c.firstWnd < 0) c.effSndMss =',
    ],
    [
      'unscaled-guest-large-window',
      'RFC 7323 2.2 (TCP-OPT-13)',
      'our window is scaled for a guest that did not agree to it',
      'options',
      'c.rcvWndShift = c.wndScaleOk ? RCV_WND_SHIFT : 0;',
      'c.rcvWndShift = RCV_WND_SHIFT;',
    ],
  ]),
];

// The time that guests are told: the host's own.

import type { Cidr4 } from '../ip/address.ts';
import { NtpService } from '../services/ntp.ts';

/** A host that follows others' clocks; RFC 5905 calls a server below such a host stratum 3 or 4. */
const NTP_STRATUM = 3;
/** 127.127.1.0: "local clock" by convention. */
const NTP_REF_ID = 0x7f7f0100;

type Parameters = ConstructorParameters<typeof NtpService>;

export function hostTime(network: Cidr4, sender: Parameters[1], drops: Parameters[2]): NtpService {
  return new NtpService(
    {
      wallClock: () => Date.now(),
      synchronised: () => true,
      stratum: NTP_STRATUM,
      refId: NTP_REF_ID,
      broadcast: network.broadcast,
      rootDelayMs: 1,
      rootDispersionMs: 10,
      precision: -10,
    },
    sender,
    drops,
  );
}

#!/usr/bin/env node
// The entry of the `isthmus` command, and nothing else: it names what is loaded late.

import { runCommand } from './command.ts';

process.exitCode = await runCommand(process.argv.slice(2), async () => (await import('./network.ts')).createNetwork);

// `npm run bench:peers -- [OPTIONS]`: see bench/peers/side-by-side.ts. Exit 64 for arguments that make no sense, 69 when the machine
// lacks something, 1 when a measurement came to nothing.

import { sideBySide } from '../bench/peers/side-by-side.ts';
import { runTool } from '../bench/peers/tool.ts';

await runTool('bench:peers', sideBySide);

// `npm run bench:compare -- COMMIT_A COMMIT_B [OPTIONS]`: see bench/compare/ratios.ts. Exit codes as those of bench-peers.ts.

import { compareCommits } from '../bench/compare/ratios.ts';
import { runTool } from '../bench/peers/tool.ts';

await runTool('bench:compare', compareCommits);

/** Something did not go as the script says. */
export class ScriptError extends Error {
  override readonly name = 'ScriptError';
}

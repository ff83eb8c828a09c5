import { bitsOption, textOption, wholeOption } from "../check-option.ts";

/** Of the options of a session, what a driver may have got wrong. */
interface Checked {
  readonly type?: { readonly id: number; readonly name: string };
  readonly config?: number;
  readonly dependencies?: readonly { readonly feature: number }[];
  readonly wanted: bigint;
  readonly without?: bigint | undefined;
  readonly required?: bigint;
  readonly ring?: bigint | undefined;
}

const U32 = 0xffff_ffff;
/** "Feature Bits": 0 to 127. */
const LAST_FEATURE = 127;

/** Throws a RangeError or TypeError that names the option, of the device with this name. */
export function checkSession(name: string, options: Checked): void {
  const { type, config, dependencies = [], wanted, without, required, ring } = options;
  for (const [option, value] of Object.entries({ wanted, without, required, ring }))
    if (value !== undefined) bitsOption(`${name}: ${option}`, value);
  if (config !== undefined) wholeOption(`${name}: config`, config, 0, U32);
  for (const { feature } of dependencies)
    wholeOption(`${name}: feature of a dependency`, feature, 0, LAST_FEATURE);
  if (type === undefined) return;
  wholeOption(`${name}: id of the type`, type.id, 0, U32);
  textOption(`${name}: name of the type`, type.name, 1);
}

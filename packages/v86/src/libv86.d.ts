/** v86's own declarations need the DOM, so the little that is used is declared here; `internals.ts` gives it a shape. */
declare module "v86/build/libv86.mjs" {
  export const V86: new (options: object) => object;
}

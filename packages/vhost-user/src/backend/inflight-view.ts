/** What recovery looks at in a ring itself. */
export interface RingView {
  /** Where the front-end says that it is taken up. */
  readonly base: number;
  /** Split: `idx` of the used ring. */
  readonly usedIdx: number;
  /** Packed: the flags of a ring entry. */
  readonly ringFlags?: (index: number) => number;
}

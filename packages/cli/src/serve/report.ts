/** What a thread or a process that serves devices says to who started it. */
export type ServingReport =
  /** Every socket is there. */
  | { readonly kind: "ready" }
  | { readonly kind: "says"; readonly message: string }
  | { readonly kind: "failed"; readonly message: string };

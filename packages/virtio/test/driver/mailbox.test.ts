import fc from "fast-check";
import { expect, test } from "vitest";
import { Mailbox } from "../../src/driver/mailbox.ts";

test("items come in order, each once, whatever is put and taken in between", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: -6000, max: 6000 }), { maxLength: 12 }),
      fc.boolean(),
      async (steps, drain) => {
        const mailbox = new Mailbox<{ readonly id: number }>();
        let [put, taken] = [0, 0];
        for (const step of steps) {
          for (let i = 0; i < step; i++) mailbox.put({ id: put++ });
          for (let i = 0; i > step && taken < put; i--) expect((await mailbox.take())?.id).toBe(taken++);
          expect(mailbox.length).toBe(put - taken);
        }
        if (drain) for (const { id } of mailbox.drain()) expect(id).toBe(taken++);
        mailbox.end();
        while (taken < put) expect((await mailbox.take())?.id).toBe(taken++);
        expect([mailbox.length, await mailbox.take()]).toEqual([0, undefined]);
      },
    ),
    { numRuns: 20 },
  );
});

test("who gives up, or comes after the end, takes nothing", async () => {
  const mailbox = new Mailbox<{ readonly id: number }>();
  await expect(mailbox.take(AbortSignal.timeout(5))).rejects.toThrow(/time/);
  const waiting = mailbox.take();
  mailbox.put({ id: 1 });
  expect(await waiting).toEqual({ id: 1 });
  const other = expect(mailbox.take()).rejects.toThrow("gone");
  mailbox.fail(new Error("gone"));
  await other;
  await expect(mailbox.take()).rejects.toThrow("gone");
});

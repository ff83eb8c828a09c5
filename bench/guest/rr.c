/*
 * rr FILE BLOCK COUNT SPAN_MIB r|w rand|seq: that many reads or writes of BLOCK bytes with O_DIRECT at random or
 * sequential places in the first SPAN_MIB of FILE; prints "OPERATIONS MICROSECONDS". Without a C library, so that any
 * gcc for x86 makes it: gcc -m32 -O2 -nostdlib -static -ffreestanding -fno-pic -fno-stack-protector -o rr rr.c
 */
typedef unsigned int u32;
typedef unsigned long long u64;

enum { SYS_EXIT = 1, SYS_WRITE = 4, SYS_OPEN = 5, SYS_GETTIMEOFDAY = 78, SYS_PREAD64 = 180, SYS_PWRITE64 = 181 };
enum { O_RDWR = 2, O_DIRECT = 040000, O_LARGEFILE = 0100000 };

static char buffer[1 << 20] __attribute__((aligned(4096)));

/* Five arguments are all that is needed; the fifth is in edi. */
static int call(int number, int a, int b, int c, int d, int e) {
  int result;
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
  return result;
}

static void text(const char *s) {
  int length = 0;
  while (s[length]) length++;
  call(SYS_WRITE, 1, (int)s, length, 0, 0);
}

static void number(u32 value) {
  char digits[12];
  int at = sizeof digits - 1;
  digits[at] = 0;
  do digits[--at] = '0' + value % 10; while (value /= 10);
  text(digits + at);
}

static u32 parse(const char *s) {
  u32 value = 0;
  while (*s >= '0' && *s <= '9') value = value * 10 + (*s++ - '0');
  return value;
}

static u32 microseconds(void) {
  struct { int seconds, microseconds; } now;
  call(SYS_GETTIMEOFDAY, (int)&now, 0, 0, 0, 0);
  return now.seconds * 1000000u + now.microseconds;
}

__attribute__((used)) static void run(int *stack) {
  char **arguments = (char **)(stack + 1);
  if (stack[0] != 7) { text("usage\n"); call(SYS_EXIT, 2, 0, 0, 0, 0); }
  int file = call(SYS_OPEN, (int)arguments[1], O_RDWR | O_DIRECT | O_LARGEFILE, 0, 0, 0);
  if (file < 0) { text("cannot open\n"); call(SYS_EXIT, 1, 0, 0, 0, 0); }
  u32 block = parse(arguments[2]), count = parse(arguments[3]), blocks = parse(arguments[4]) * 1048576u / block;
  int transfer = arguments[5][0] == 'w' ? SYS_PWRITE64 : SYS_PREAD64, random = arguments[6][0] == 'r';
  u32 state = 12345, start = microseconds(), done = 0;
  for (; done < count; done++) {
    state ^= state << 13; state ^= state >> 17; state ^= state << 5;
    u64 offset = (u64)((random ? state : done) % blocks) * block;
    if (call(transfer, file, (int)buffer, block, (u32)offset, offset >> 32) != (int)block) break;
  }
  number(done); text(" "); number(microseconds() - start); text("\n");
  call(SYS_EXIT, done == count ? 0 : 1, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call run\n");

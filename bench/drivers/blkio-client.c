/*
 * The peer of bench/drivers.mjs: a client of libblkio that keeps requests of 4 KiB in flight on a vhost-user-blk back-end.
 *
 *     blkio-client SOCKET DEPTH SECONDS BYTES read|write
 *
 * Prints operations, seconds, and processor seconds of this process.
 */
#include <blkio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { SIZE = 4096, MAX_DEPTH = 256 };

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static double processor(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void must(int result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "%s: %s: %s\n", what, strerror(-result), blkio_get_error_msg());
	exit(1);
}

int main(int argc, char **argv)
{
	if (argc != 6)
		return 2;
	const int depth = atoi(argv[2]);
	const double seconds = atof(argv[3]);
	const uint64_t blocks = strtoull(argv[4], NULL, 10) / SIZE;
	const int writes = strcmp(argv[5], "write") == 0;
	if (depth < 1 || depth > MAX_DEPTH || blocks == 0)
		return 2;
	struct blkio *disk;
	struct blkio_mem_region memory;
	must(blkio_create("virtio-blk-vhost-user", &disk), "create");
	must(blkio_set_str(disk, "path", argv[1]), "path");
	must(blkio_connect(disk), "connect");
	must(blkio_set_int(disk, "num-queues", 1), "num-queues");
	must(blkio_start(disk), "start");
	must(blkio_alloc_mem_region(disk, &memory, (size_t)depth * SIZE), "alloc");
	must(blkio_map_mem_region(disk, &memory), "map");
	struct blkioq *queue = blkio_get_queue(disk, 0);
	uint64_t seed = 88172645463325252ull, operations = 0;
	int in_flight = 0, slots[MAX_DEPTH], free_slots = depth;
	for (int i = 0; i < depth; i++)
		slots[i] = i;
	const double start = now(), busy = processor(), end = start + seconds;
	while (now() < end || in_flight > 0) {
		for (; free_slots > 0 && now() < end; in_flight++) {
			const int slot = slots[--free_slots];
			char *buffer = (char *)memory.addr + (size_t)slot * SIZE;
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			const uint64_t offset = seed % blocks * SIZE;
			if (writes)
				blkioq_write(queue, offset, buffer, SIZE, (void *)(intptr_t)slot, 0);
			else
				blkioq_read(queue, offset, buffer, SIZE, (void *)(intptr_t)slot, 0);
		}
		struct blkio_completion done[MAX_DEPTH];
		const int count = blkioq_do_io(queue, done, in_flight > 0, MAX_DEPTH, NULL);
		must(count, "do_io");
		for (int i = 0; i < count; i++) {
			must(done[i].ret, "request");
			slots[free_slots++] = (int)(intptr_t)done[i].user_data;
		}
		in_flight -= count;
		operations += count;
	}
	printf("%llu %f %f\n", (unsigned long long)operations, now() - start, processor() - busy);
	blkio_destroy(&disk);
	return 0;
}

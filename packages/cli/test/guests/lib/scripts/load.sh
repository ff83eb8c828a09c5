#!/bin/sh
# load SECONDS: writes, reads, renames, removes and syncs in /data for that long, and checks what it reads. Two workers; what
# they say last is how often they went round.

now() { read -r time _ </proc/uptime && echo "${time%%.*}"; }
end=$(($(now) + $1))

fail() {
	echo "load: $*"
	exit 1
}

check() { # FOLDER: all files have what was written
	# A slow machine may not have written any yet.
	[ -n "$(ls "$1/sums" 2>/dev/null)" ] || return 0
	cat "$1"/sums/* | md5sum -c -s || fail "a sum in $1 is wrong"
}

worker() { # NUMBER
	folder=/data/$1
	mkdir -p "$folder/sums" "$folder/tree"
	round=0
	while [ "$(now)" -lt "$end" ]; do
		file=$folder/file$((round % 24))
		# From 4 KiB to 1 MiB of new content, synced, and in place of what was there before.
		dd if=/dev/urandom of="$folder/new" bs=4k count=$((1 + round * 37 % 256)) conv=fsync 2>/dev/null || fail dd
		sum=$(md5sum <"$folder/new") || fail md5sum
		rm -f "$folder/sums/${file##*/}"
		mv "$folder/new" "$file" || fail mv
		echo "${sum%% *}  $file" >"$folder/sums/${file##*/}" || fail echo
		# A tree of small files that is renamed, added to, and removed.
		tree=$folder/tree/$round
		mkdir -p "$tree/a/b" || fail mkdir
		for name in 1 2 3 4 5 6 7 8; do echo "$round $name" >"$tree/a/b/$name" || fail small; done
		mv "$tree/a/b" "$tree/c" && mv "$tree" "$tree.renamed" || fail rename
		dd if=/dev/zero bs=1000 count=3 of="$tree.renamed/c/1" oflag=append conv=notrunc,fsync 2>/dev/null || fail append
		[ "$(wc -c <"$tree.renamed/c/1")" = $((3000 + ${#round} + 3)) ] || fail "the length after appending"
		[ $((round % 4)) = 3 ] && { rm -r "$folder"/tree/* || fail rm; }
		# Past the page cache: single blocks, and at times everything.
		dd if=/dev/vda of=/dev/null bs=4k skip=$((round * 997 % 16384)) count=16 iflag=direct 2>/dev/null || fail direct
		if [ $((round % 16)) = 15 ]; then
			sync
			echo 3 >/proc/sys/vm/drop_caches
			check "$folder"
		fi
		round=$((round + 1))
	done
	echo "worker $1: $round rounds"
}

worker 0 &
first=$!
worker 1 &
wait $first || exit 1
wait $! || exit 1
sync
echo 3 >/proc/sys/vm/drop_caches
check /data/0
check /data/1

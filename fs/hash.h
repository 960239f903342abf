/* hash.h - BLAKE2b (RFC 7693) without a key: names contents. Collisions must not be makeable, because equal hashes
 * share results between users; and it must be quick, because every input passes through it. */
#ifndef HASH_H
#define HASH_H

#include <stddef.h>
#include <stdint.h>

struct hash {
	uint64_t h[8], count;
	uint8_t block[128];
	size_t block_len, digest_len;
};

void hash_init(struct hash *hash, size_t digest_len); /* 1..64 bytes */
void hash_update(struct hash *hash, const void *data, size_t len);
void hash_final(struct hash *hash, uint8_t *digest);
void hash_once(uint8_t *digest, size_t digest_len, const void *data, size_t len);

#endif

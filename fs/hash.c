/* hash.c - BLAKE2b. Source: RFC 7693, sections 2 and 3. */
#include "hash.h"

#include <string.h>

static const uint64_t IV[8] = {0x6a09e667f3bcc908u, 0xbb67ae8584caa73bu, 0x3c6ef372fe94f82bu, 0xa54ff53a5f1d36f1u,
	0x510e527fade682d1u, 0x9b05688c2b3e6c1fu, 0x1f83d9abfb41bd6bu, 0x5be0cd19137e2179u};

static const uint8_t SIGMA[12][16] = {
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	{14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
	{11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
	{7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
	{9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
	{2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
	{12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
	{13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
	{6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
	{10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	{14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
};

static inline uint64_t rotate(uint64_t x, int n)
{
	return x >> n | x << (64 - n);
}

static inline void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y)
{
	v[a] += v[b] + x;
	v[d] = rotate(v[d] ^ v[a], 32);
	v[c] += v[d];
	v[b] = rotate(v[b] ^ v[c], 24);
	v[a] += v[b] + y;
	v[d] = rotate(v[d] ^ v[a], 16);
	v[c] += v[d];
	v[b] = rotate(v[b] ^ v[c], 63);
}

static uint64_t load(const uint8_t *p)
{
	uint64_t x = 0;
	for (int i = 7; i >= 0; i--)
		x = x << 8 | p[i];
	return x;
}

static void compress(struct hash *hash, const uint8_t *block, int last)
{
	uint64_t v[16], m[16];
	for (int i = 0; i < 8; i++) {
		v[i] = hash->h[i];
		v[i + 8] = IV[i];
	}
	v[12] ^= hash->count; /* the high word of the count stays 0: no input has 2^64 bytes */
	if (last)
		v[14] = ~v[14];
	for (int i = 0; i < 16; i++)
		m[i] = load(block + 8 * i);
	for (int round = 0; round < 12; round++) {
		const uint8_t *s = SIGMA[round];
		mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
		mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
		mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
		mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
		mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
		mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
		mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
		mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
	}
	for (int i = 0; i < 8; i++)
		hash->h[i] ^= v[i] ^ v[i + 8];
}

void hash_init(struct hash *hash, size_t digest_len)
{
	*hash = (struct hash){.digest_len = digest_len};
	memcpy(hash->h, IV, sizeof hash->h);
	hash->h[0] ^= 0x01010000 ^ digest_len;
}

void hash_update(struct hash *hash, const void *data, size_t len)
{
	const uint8_t *p = data;
	while (len > 0) {
		if (hash->block_len == sizeof hash->block) { /* only when more follows: the last block is special */
			hash->count += sizeof hash->block;
			compress(hash, hash->block, 0);
			hash->block_len = 0;
		}
		size_t room = sizeof hash->block - hash->block_len, n = len < room ? len : room;
		memcpy(hash->block + hash->block_len, p, n);
		hash->block_len += n;
		p += n;
		len -= n;
	}
}

void hash_final(struct hash *hash, uint8_t *digest)
{
	hash->count += hash->block_len;
	memset(hash->block + hash->block_len, 0, sizeof hash->block - hash->block_len);
	compress(hash, hash->block, 1);
	for (size_t i = 0; i < hash->digest_len; i++)
		digest[i] = hash->h[i / 8] >> 8 * (i % 8);
}

void hash_once(uint8_t *digest, size_t digest_len, const void *data, size_t len)
{
	struct hash hash;
	hash_init(&hash, digest_len);
	hash_update(&hash, data, len);
	hash_final(&hash, digest);
}

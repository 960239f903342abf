/* table.h - a hash table of things that carry their own link, in memory. Used by tree.c and jobs.c; no locks.
 *
 * It grows by one bucket at a time (linear hashing: Litwin, VLDB 1980), so no insertion waits for all the others to be moved.
 * Bucket i splits into i and i + 2^k; `mask` is 2^(k + 1) - 1, and a bucket that is not there yet is still part of its lower
 * one. Without memory it only gets slower. */
#ifndef TABLE_H
#define TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

struct table_link {
	struct table_link *next;
};

struct table {
	struct table_link **buckets;
	size_t n_buckets, cap, mask, n;
	size_t (*hash)(const struct table_link *link); /* of what carries it; unchanged while it is in the table */
};

enum { TABLE_START = 256, TABLE_LOAD = 3 }; /* buckets; entries a bucket */

/* What carries the link: TABLE_ENTRY(link, struct tree_node, by_id). */
#define TABLE_ENTRY(link, type, field) ((type *)((char *)(link)-offsetof(type, field)))

/* Eight ids that were given one after another have buckets in one cache line. */
static inline size_t table_hash_id(uint64_t id)
{
	return (size_t)((id >> 3) * 0x9e3779b97f4a7c15u >> 20 << 3 | (id & 7));
}

/* FNV-1a, started from a number that is part of it. */
static inline size_t table_hash_text(uint64_t id, const char *text)
{
	uint64_t h = 0xcbf29ce484222325u ^ id * 0x9e3779b97f4a7c15u;
	for (; *text; text++)
		h = (h ^ (unsigned char)*text) * 0x100000001b3u;
	return (size_t)(h ^ h >> 29);
}

static inline bool table_init(struct table *table, size_t (*hash)(const struct table_link *link))
{
	*table = (struct table){.n_buckets = TABLE_START, .cap = TABLE_START, .mask = TABLE_START - 1, .hash = hash};
	table->buckets = calloc(table->cap, sizeof *table->buckets);
	return table->buckets != NULL;
}

/* What is in it is the caller's. */
static inline void table_finish(struct table *table)
{
	free(table->buckets);
	*table = (struct table){0};
}

static inline struct table_link **table_bucket(const struct table *table, size_t hash)
{
	size_t i = hash & table->mask;
	return &table->buckets[i < table->n_buckets ? i : i & table->mask >> 1];
}

/* The chain in which all of this hash are, among others. */
static inline struct table_link *table_chain(const struct table *table, size_t hash)
{
	return *table_bucket(table, hash);
}

static inline void table_split(struct table *table)
{
	if (table->n_buckets == table->cap) {
		size_t cap = table->cap + table->cap / 4;
		struct table_link **buckets = realloc(table->buckets, cap * sizeof *buckets);
		if (!buckets)
			return;
		table->buckets = buckets;
		table->cap = cap;
	}
	if (table->n_buckets > table->mask)
		table->mask = 2 * table->mask + 1;
	size_t upper = table->n_buckets++;
	table->buckets[upper] = NULL;
	for (struct table_link **at = &table->buckets[upper & table->mask >> 1], *link; (link = *at);) {
		if ((table->hash(link) & table->mask) != upper) {
			at = &link->next;
			continue;
		}
		*at = link->next;
		link->next = table->buckets[upper];
		table->buckets[upper] = link;
	}
}

static inline void table_add(struct table *table, struct table_link *link)
{
	if (table->n++ >= TABLE_LOAD * table->n_buckets)
		table_split(table);
	struct table_link **bucket = table_bucket(table, table->hash(link));
	link->next = *bucket;
	*bucket = link;
}

/* It must be in the table. */
static inline void table_remove(struct table *table, struct table_link *link)
{
	struct table_link **at = table_bucket(table, table->hash(link));
	while (*at != link)
		at = &(*at)->next;
	*at = link->next;
	table->n--;
}

/* All, in no order: the one after `link`, of which NULL gives the first. Nothing is added or removed between, but the last one
 * that was given may be freed once the next one is known. */
static inline struct table_link *table_next(const struct table *table, const struct table_link *link)
{
	if (link && link->next)
		return link->next;
	size_t i = link ? (size_t)(table_bucket(table, table->hash(link)) - table->buckets) + 1 : 0;
	while (i < table->n_buckets && !table->buckets[i])
		i++;
	return i < table->n_buckets ? table->buckets[i] : NULL;
}

#endif

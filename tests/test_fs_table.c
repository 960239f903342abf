/* test_fs_table.c - table.h: whatever is in a table is found, while it grows and shrinks. */
#include "table.h"

#include <criterion/criterion.h>

struct thing {
	uint64_t id;
	struct table_link link;
	bool in, seen;
};

enum { THINGS = 20000 };

static struct thing things[THINGS];
static struct table table;

static struct thing *of(const struct table_link *link)
{
	return link ? TABLE_ENTRY(link, struct thing, link) : NULL;
}

static size_t hash(const struct table_link *link)
{
	return table_hash_id(of(link)->id);
}

static size_t same_hash(const struct table_link *link)
{
	(void)link;
	return 12345;
}

static bool finds(size_t its_hash, const struct thing *thing)
{
	const struct thing *found = of(table_chain(&table, its_hash));
	while (found && found != thing)
		found = of(found->link.next);
	return found;
}

static void check_all(void)
{
	size_t n = 0;
	for (int i = 0; i < THINGS; i++) {
		cr_assert_eq(finds(hash(&things[i].link), &things[i]), things[i].in, "%d", i);
		n += things[i].in;
		things[i].seen = false;
	}
	cr_assert_eq(table.n, n);
	for (struct thing *thing = of(table_next(&table, NULL)); thing; thing = of(table_next(&table, &thing->link))) {
		cr_assert(thing->in && !thing->seen);
		thing->seen = true;
		n--;
	}
	cr_assert_eq(n, 0, "%zu were not walked over", n);
}

static void put(int i, bool in)
{
	if (in)
		table_add(&table, &things[i].link);
	else
		table_remove(&table, &things[i].link);
	things[i].in = in;
}

Test(table, all_is_found_at_every_size)
{
	cr_assert(table_init(&table, hash));
	check_all();
	for (int i = 0; i < THINGS; i++) {
		things[i].id = 7 * i + 1;
		put(i, true);
		cr_assert(finds(hash(&things[i].link), &things[i]));
		cr_assert(finds(hash(&things[i / 2].link), &things[i / 2]));
		if (i % 1499 == 0)
			check_all();
	}
	check_all();
	cr_assert_geq(TABLE_LOAD * table.n_buckets, table.n, "it has not grown");
	for (int i = 0; i < THINGS; i += 3)
		put(i, false);
	check_all();
	for (int i = 0; i < THINGS; i += 3)
		put(i, true);
	check_all();
	table_finish(&table);
}

/* A step moves one bucket's things only: the longest chain says how many. */
Test(table, it_grows_in_small_steps)
{
	cr_assert(table_init(&table, hash));
	size_t longest = 0;
	for (int i = 0; i < THINGS; i++) {
		size_t before = table.n_buckets;
		things[i].id = i + 100;
		put(i, true);
		cr_assert_leq(table.n_buckets, before + 1);
	}
	for (size_t i = 0; i < table.n_buckets; i++) {
		size_t n = 0;
		for (const struct table_link *link = table.buckets[i]; link; link = link->next)
			n++;
		longest = n > longest ? n : longest;
	}
	cr_assert_leq(longest, 20, "%zu in one bucket", longest);
	table_finish(&table);
}

Test(table, all_of_one_hash)
{
	cr_assert(table_init(&table, same_hash));
	for (int i = 0; i < 2000; i++)
		put(i, true);
	for (int i = 0; i < 2000; i++) {
		cr_assert(finds(12345, &things[i]));
		put(i, false);
		cr_assert_not(finds(12345, &things[i]));
	}
	cr_assert_null(table_next(&table, NULL));
	table_finish(&table);
}

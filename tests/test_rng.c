/* test_rng.c - the generator against SHA-256 sums of torch's own draws. */
#include "rng.h"

#include "cli/sha256.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS 56

Test(rng, sha256_of_known_texts)
{
	char hex[65];
	sha256_hex(hex, "", 0);
	cr_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	sha256_hex(hex, "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56);
	cr_assert_str_eq(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

/* Each entry of rng.json is one draw; "ss" entries seed the generator, the "slat" entry that follows continues. */
Test(rng, draws_equal_torch)
{
	json_error_t json_error;
	json_t *root = json_load_file("tests/golden/rng.json", 0, &json_error);
	cr_assert_not_null(root, "tests/golden/rng.json: %s", json_error.text);
	json_t *draws = json_object_get(root, "draws"), *draw;
	struct rng rng;
	size_t index;
	json_array_foreach(draws, index, draw)
	{
		json_t *shape = json_object_get(draw, "shape"), *dim;
		int64_t n = 1;
		size_t axis;
		json_array_foreach(shape, axis, dim) n *= json_integer_value(dim);
		if (strcmp(json_string_value(json_object_get(draw, "draw")), "ss") == 0)
			rng_seed(&rng, (uint64_t)json_integer_value(json_object_get(draw, "seed")));
		float *out = malloc((size_t)n * sizeof *out);
		cr_assert_not_null(out);
		rng_normal(&rng, out, n);
		char hex[65];
		sha256_hex(hex, out, (size_t)n * sizeof *out);
		cr_assert_str_eq(hex, json_string_value(json_object_get(draw, "sha256")), "draw %zu of %lld numbers",
			index, (long long)n);
		free(out);
	}
	cr_assert_eq(index, DRAWS);
	json_decref(root);
}

Test(rng, high_bits_of_the_seed_do_not_count)
{
	struct rng a, b;
	rng_seed(&a, 5);
	rng_seed(&b, 5 + (7ull << 32));
	float x[16], y[16];
	rng_normal(&a, x, 16);
	rng_normal(&b, y, 16);
	cr_assert_arr_eq(x, y, sizeof x);
}

/* A small draw keeps its second number through a large draw, and seeding forgets it. */
Test(rng, kept_number)
{
	struct rng rng;
	float pair[2], first, second, large[16];
	rng_seed(&rng, 3);
	rng_normal(&rng, pair, 2);
	rng_seed(&rng, 3);
	rng_normal(&rng, &first, 1);
	rng_normal(&rng, large, 16);
	rng_normal(&rng, &second, 1);
	cr_assert_eq(first, pair[0]);
	cr_assert_eq(second, pair[1]);
	rng_normal(&rng, &first, 1);
	rng_seed(&rng, 3);
	rng_normal(&rng, &first, 1);
	cr_assert_eq(first, pair[0]);
}

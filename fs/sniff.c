/* sniff.c - walk a PNG's chunks or a JPEG's markers to the end, without decoding. Contract: sniff.h.
 * Sources: PNG specification (W3C, third edition) sec. 5; ITU-T T.81 annex B; ISO 14496-12 sec. 4.3 for `ftyp` brands.
 */
#include "sniff.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *extension(const char *name)
{
	const char *dot = strrchr(name, '.');
	return dot && dot != name ? dot + 1 : "";
}

static const char *unsupported_extension(const char *name)
{
	static const char *const table[][2] = {{"webp", "WebP"}, {"heic", "HEIC"}, {"heif", "HEIF"}, {"avif", "AVIF"},
		{"jxl", "JPEG XL"}, {"jp2", "JPEG 2000"}, {"tif", "TIFF"}, {"tiff", "TIFF"}, {"gif", "GIF"},
		{"bmp", "BMP"}, {"svg", "SVG"}, {"psd", "Photoshop"}, {"exr", "OpenEXR"}, {"dng", "DNG"}};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++)
		if (!strcasecmp(extension(name), table[i][0]))
			return table[i][1];
	return NULL;
}

static bool is_one_of(const char *word, const char *const *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!strcasecmp(word, words[i]))
			return true;
	return false;
}
#define IS_ONE_OF(word, words) is_one_of((word), (words), sizeof(words) / sizeof *(words))

/* What programs that download or copy call what is not all there yet. */
static bool is_transfer(const char *name)
{
	static const char *const extensions[] = {
		"part", "partial", "filepart", "crdownload", "download", "opdownload", "tmp", "!sync"};
	return IS_ONE_OF(extension(name), extensions);
}

static bool has_image_extension(const char *name)
{
	static const char *const images[] = {"png", "jpg", "jpeg"};
	return IS_ONE_OF(extension(name), images);
}

/* What is put behind a picture's whole name: mkstemp's six characters, as savers do that rename in the end ("a.png.Xy12Zq"; a
 * word or a date of six is no such), and exiftool's "a.png_original". */
static bool is_aside(const char *name)
{
	static const char original[] = "_original";
	char picture[256];
	const char *dot = strrchr(name, '.');
	size_t len = strlen(name), end = len > sizeof original ? len - (sizeof original - 1) : 0;
	bool letter = false, other = false;
	if (len >= sizeof picture || !dot)
		return false;
	if (end && strcmp(name + end, original) == 0) {
		snprintf(picture, sizeof picture, "%.*s", (int)end, name);
		return has_image_extension(picture);
	}
	for (const char *p = dot + 1; *p; p++) {
		bool upper = *p >= 'A' && *p <= 'Z', lower = *p >= 'a' && *p <= 'z', digit = *p >= '0' && *p <= '9';
		if (!upper && !lower && !digit)
			return false;
		letter |= upper || lower;
		other |= upper || digit;
	}
	snprintf(picture, sizeof picture, "%.*s", (int)(dot - name), name);
	return strlen(dot + 1) == 6 && letter && other && has_image_extension(picture);
}

enum sniff_name sniff_name(const char *name)
{
	static const char *const junk_names[] = {"Thumbs.db", "desktop.ini"}; /* .DS_Store and ._x are dotfiles */
	static const char *const backups[] = {"bak", "orig", "swp"};
	size_t len = strlen(name);
	if (len == 0 || name[0] == '.' || name[len - 1] == '~' || IS_ONE_OF(name, junk_names) || is_transfer(name) ||
		IS_ONE_OF(extension(name), backups) || is_aside(name))
		return SNIFF_NAME_JUNK;
	if (has_image_extension(name))
		return SNIFF_NAME_IMAGE;
	return unsupported_extension(name) ? SNIFF_NAME_UNSUPPORTED : SNIFF_NAME_OTHER;
}

bool sniff_folder_is_junk(const char *name)
{
	static const char *const names[] = {"@eaDir", "@tmp", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot",
		"$RECYCLE.BIN", "RECYCLER", "lost+found", "System Volume Information",
		"__MACOSX"}; /* .Trash-0, .~tmp~, .stversions, .thumbnails ... are hidden */
	return name[0] == '.' || name[strlen(name) - 1] == '~' || IS_ONE_OF(name, names) || is_transfer(name);
}

/* A window over the file, moved by pread. end is the size when the walk began: what is written behind it meanwhile is
 * the next walk's business. */
struct reader {
	int fd, error; /* errno of a failed read, 0 */
	uint64_t pos, end;
	uint64_t start; /* of the window in the file */
	size_t len;
	uint8_t window[65536];
};

/* The bytes from pos on that the window holds, refilled when it holds none: 0 at the end and after an error. */
static size_t reader_have(struct reader *r, const uint8_t **bytes)
{
	if (r->pos < r->start || r->pos >= r->start + r->len) {
		r->start = r->pos;
		r->len = 0;
		if (r->error || r->pos >= r->end)
			return 0;
		uint64_t left = r->end - r->pos;
		size_t want = left < sizeof r->window ? (size_t)left : sizeof r->window;
		ssize_t got;
		do
			got = pread(r->fd, r->window, want, (off_t)r->pos);
		while (got < 0 && errno == EINTR);
		if (got < 0)
			r->error = errno;
		r->len = got > 0 ? (size_t)got : 0;
	}
	*bytes = r->window + (r->pos - r->start);
	return (size_t)(r->start + r->len - r->pos);
}

/* Exactly n bytes, or false when the file ends before. */
static bool reader_take(struct reader *r, uint8_t *out, size_t n)
{
	while (n) {
		const uint8_t *bytes;
		size_t have = reader_have(r, &bytes);
		if (!have)
			return false;
		if (have > n)
			have = n;
		memcpy(out, bytes, have);
		out += have;
		n -= have;
		r->pos += have;
	}
	return true;
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static enum sniff_verdict truncated(const struct reader *r, struct error *err, const char *missing)
{
	if (r->error) {
		error_set(err, "reading the image: %s", strerror(r->error));
		return SNIFF_IO_ERROR;
	}
	error_set(err, "the image is truncated: after %llu bytes, %s is missing", (unsigned long long)r->end, missing);
	return SNIFF_TRUNCATED;
}

static enum sniff_verdict check_dimensions(const struct sniff_image *image, struct error *err)
{
	if (image->width == 0 || image->height == 0) {
		error_set(err, "broken %s: %u x %u pixels", image->format, image->width, image->height);
		return SNIFF_REFUSED;
	}
	if ((uint64_t)image->width * image->height > SNIFF_MAX_PIXELS) {
		error_set(err, "the image is too large: %u x %u pixels are over %u megapixels", image->width,
			image->height, SNIFF_MAX_PIXELS / 1000000);
		return SNIFF_REFUSED;
	}
	return SNIFF_WHOLE;
}

static enum sniff_verdict walk_png(struct reader *r, struct sniff_image *image, struct error *err)
{
	bool have_data = false;
	image->format = "PNG";
	r->pos = 8;
	for (int chunk = 0; chunk < SNIFF_MAX_CHUNKS; chunk++) {
		uint8_t head[8], header[8];
		if (!reader_take(r, head, 8))
			return truncated(r, err, "the PNG's end chunk (IEND)");
		uint32_t len = be32(head);
		bool letters = true;
		for (int i = 4; i < 8; i++)
			letters &= (uint8_t)((head[i] | 0x20) - 'a') < 26;
		bool is_header = memcmp(head + 4, "IHDR", 4) == 0;
		if (!letters || len > 0x7fffffff || is_header != (chunk == 0) || (is_header && len != 13)) {
			error_set(err, "broken PNG: chunk %d is not one", chunk + 1);
			return SNIFF_REFUSED;
		}
		if (is_header) {
			if (!reader_take(r, header, 8))
				return truncated(r, err, "the rest of the PNG's header");
			image->width = be32(header);
			image->height = be32(header + 4);
			enum sniff_verdict verdict = check_dimensions(image, err);
			if (verdict != SNIFF_WHOLE)
				return verdict;
			r->pos -= 8;
		}
		have_data |= memcmp(head + 4, "IDAT", 4) == 0;
		r->pos += (uint64_t)len + 4; /* 4: the checksum, which the decoder verifies */
		if (memcmp(head + 4, "IEND", 4) == 0) {
			if (r->pos > r->end)
				return truncated(r, err, "the checksum of the PNG's end chunk");
			if (have_data)
				return SNIFF_WHOLE;
			error_set(err, "broken PNG: it has no image data (IDAT)");
			return SNIFF_REFUSED;
		}
	}
	error_set(err, "the PNG has over %d chunks", SNIFF_MAX_CHUNKS);
	return SNIFF_REFUSED;
}

/* Skip entropy-coded data to the next marker: 0xFF followed by anything but 0 (a stuffed byte), D0-D7 (restart) or
 * another 0xFF (padding). pos is then after the marker. False: the file ends before. */
static bool next_marker(struct reader *r, uint8_t *marker)
{
	const uint8_t *bytes;
	size_t have;
	while ((have = reader_have(r, &bytes))) {
		const uint8_t *ff = memchr(bytes, 0xff, have);
		if (!ff) {
			r->pos += have;
			continue;
		}
		r->pos += (uint64_t)(ff - bytes) + 1;
		do
			if (!reader_take(r, marker, 1))
				return false;
		while (*marker == 0xff);
		if (*marker != 0 && !(*marker >= 0xd0 && *marker <= 0xd7))
			return true;
	}
	return false;
}

/* The last scan ends in zeros, at least as many as a decoder reads ahead: cameras and recovery tools cut such files at a block.
 * Whether the scan is complete only a decoder can tell. */
static bool ends_in_zeros(struct reader *r, uint64_t scan)
{
	static const uint8_t zeros[16];
	uint8_t tail[sizeof zeros];
	if (r->error || r->end < scan + sizeof tail)
		return false;
	r->pos = r->end - sizeof tail;
	return reader_take(r, tail, sizeof tail) && memcmp(tail, zeros, sizeof tail) == 0;
}

static enum sniff_verdict walk_jpeg(struct reader *r, struct sniff_image *image, struct error *err)
{
	static const char end[] = "the JPEG's end marker (EOI)";
	int scans = 0;
	bool in_scan = false, have_frame = false;
	image->format = "JPEG";
	r->pos = 2;
	for (;;) {
		uint8_t marker, head[7];
		if (in_scan) {
			uint64_t scan = r->pos;
			if (!next_marker(r, &marker))
				return ends_in_zeros(r, scan) ? SNIFF_PADDED : truncated(r, err, end);
		} else {
			uint8_t ff;
			if (!reader_take(r, &ff, 1))
				return truncated(r, err, end);
			do
				if (!reader_take(r, &marker, 1))
					return truncated(r, err, end);
			while (ff == 0xff && marker == 0xff);
			if (ff != 0xff || marker < 0xc0) {
				error_set(err, "broken JPEG: no marker at byte %llu", (unsigned long long)r->pos - 2);
				return SNIFF_REFUSED;
			}
		}
		in_scan = false;
		if (marker == 0xd9) { /* EOI */
			if (have_frame && scans)
				return SNIFF_WHOLE;
			error_set(err, "broken JPEG: it ends without a picture");
			return SNIFF_REFUSED;
		}
		if (marker >= 0xd0 && marker <= 0xd8) {
			error_set(err, "broken JPEG: marker %02X outside of a scan", marker);
			return SNIFF_REFUSED;
		}
		uint64_t segment = r->pos;
		if (!reader_take(r, head, 2))
			return truncated(r, err, end);
		unsigned len = (unsigned)head[0] << 8 | head[1];
		bool is_frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
		if (len < 2 || (is_frame && (len < 8 || have_frame)) || (marker == 0xda && !have_frame)) {
			error_set(
				err, "broken JPEG: bad segment %02X at byte %llu", marker, (unsigned long long)segment);
			return SNIFF_REFUSED;
		}
		if (is_frame) {
			if (!reader_take(r, head + 2, 5))
				return truncated(r, err, end);
			image->height = (uint32_t)head[3] << 8 | head[4];
			image->width = (uint32_t)head[5] << 8 | head[6];
			enum sniff_verdict verdict = check_dimensions(image, err);
			if (verdict != SNIFF_WHOLE)
				return verdict;
			have_frame = true;
		}
		r->pos = segment + len;
		if (marker == 0xda) { /* SOS */
			in_scan = true;
			if (++scans > SNIFF_MAX_SCANS) {
				error_set(err, "the JPEG has over %d scans", SNIFF_MAX_SCANS);
				return SNIFF_REFUSED;
			}
		}
	}
}

/* The name of a known format that can't be read, by its first n bytes, or NULL. */
static const char *unsupported_magic(const uint8_t *p, size_t n)
{
	static const char *const brands[][2] = {{"heic", "HEIC"}, {"heix", "HEIC"}, {"hevc", "HEIC"}, {"hevx", "HEIC"},
		{"mif1", "HEIF"}, {"msf1", "HEIF"}, {"avif", "AVIF"}, {"avis", "AVIF"}};
	if (n >= 12 && !memcmp(p, "RIFF", 4) && !memcmp(p + 8, "WEBP", 4))
		return "WebP";
	if (n >= 12 && !memcmp(p + 4, "ftyp", 4))
		for (size_t i = 0; i < sizeof brands / sizeof *brands; i++)
			if (!memcmp(p + 8, brands[i][0], 4))
				return brands[i][1];
	if (n >= 6 && (!memcmp(p, "GIF87a", 6) || !memcmp(p, "GIF89a", 6)))
		return "GIF";
	if (n >= 4 && (!memcmp(p, "II*\0", 4) || !memcmp(p, "MM\0*", 4)))
		return "TIFF";
	if (n >= 12 && (!memcmp(p, "\0\0\0\x0cJXL \r\n\x87\n", 12)))
		return "JPEG XL";
	if (n >= 12 && (!memcmp(p, "\0\0\0\x0cjP  \r\n\x87\n", 12)))
		return "JPEG 2000";
	if (n >= 6 && !memcmp(p, "8BPS\0\1", 6))
		return "Photoshop";
	/* "BM" alone starts many a text: BMP also has two reserved zeros and one of the known header sizes. */
	if (n >= 18 && !memcmp(p, "BM", 2) && !memcmp(p + 6, "\0\0\0\0", 4) && !memcmp(p + 15, "\0\0\0", 3) &&
		(p[14] == 12 || p[14] == 40 || p[14] == 52 || p[14] == 56 || p[14] == 108 || p[14] == 124))
		return "BMP";
	return NULL;
}

static enum sniff_verdict refuse_format(const char *format, struct error *err)
{
	error_set(err, "%s images are not supported: save the picture as PNG or JPEG", format);
	return SNIFF_REFUSED;
}

/* An image name over bytes that begin neither a PNG nor a JPEG. */
static enum sniff_verdict judge_mismatch(
	const struct reader *r, const uint8_t *head, size_t n, const char *name, struct error *err)
{
	static const uint8_t zeros[18];
	bool prefix = (n < 8 && !memcmp(head, "\x89PNG\r\n\x1a\n", n)) || (n < 3 && !memcmp(head, "\xff\xd8\xff", n));
	if (prefix || !memcmp(head, zeros, n))
		return truncated(r, err, prefix ? "all but the first bytes" : "the image's start (zeros are there)");
	error_set(err, "not an image: the name ends in .%s, but the file begins neither as PNG nor as JPEG",
		extension(name));
	return SNIFF_REFUSED;
}

enum sniff_verdict sniff_file(int fd, const char *name, struct sniff_image *image, struct error *err)
{
	static const char png_magic[] = "\x89PNG\r\n\x1a\n";
	struct stat st;
	enum sniff_name kind = sniff_name(name);
	if (kind == SNIFF_NAME_JUNK)
		return SNIFF_IGNORED;
	if (fstat(fd, &st) < 0) {
		error_set(err, "reading the image: %s", strerror(errno));
		return SNIFF_IO_ERROR;
	}
	if (st.st_size <= 0)
		return SNIFF_IGNORED;

	struct reader r; /* without its window: 64 KB of zeros would be written for nothing */
	r.fd = fd;
	r.error = 0;
	r.pos = r.start = r.len = 0;
	r.end = (uint64_t)st.st_size;
	uint8_t head[18] = {0};
	size_t n = r.end < sizeof head ? (size_t)r.end : sizeof head;
	if (!reader_take(&r, head, n))
		return truncated(&r, err, "everything");

	bool png = n >= 8 && !memcmp(head, png_magic, 8), jpeg = n >= 3 && !memcmp(head, "\xff\xd8\xff", 3);
	if (!png && !jpeg) {
		const char *format = unsupported_magic(head, n);
		if (!format && kind == SNIFF_NAME_UNSUPPORTED)
			format = unsupported_extension(name);
		if (format)
			return refuse_format(format, err);
		return kind == SNIFF_NAME_IMAGE ? judge_mismatch(&r, head, n, name, err) : SNIFF_IGNORED;
	}
	if (r.end > SNIFF_MAX_BYTES) {
		error_set(err, "the image is too large: %llu bytes are over 1 GiB", (unsigned long long)r.end);
		return SNIFF_REFUSED;
	}
	struct sniff_image found = {0};
	enum sniff_verdict verdict = png ? walk_png(&r, &found, err) : walk_jpeg(&r, &found, err);
	if ((verdict == SNIFF_WHOLE || verdict == SNIFF_PADDED) && image)
		*image = found;
	return verdict;
}

/*
 * What Python cannot do fast enough for every page of a database: the keyed BLAKE3 hash, the
 * PostgreSQL page checksum and the zero test of a run of pages, in one call without the GIL.
 *
 * BLAKE3 is written from its specification (github.com/BLAKE3-team/BLAKE3-specs); the page
 * checksum follows PostgreSQL's src/include/storage/checksum_impl.h, whose column offsets are
 * part of the algorithm. _pages_numpy.py does the same without a compiler; page.py is the face
 * of both, and a test compares them.
 *
 * Nothing here keeps state or touches a Python object while the GIL is released.
 */
#if !defined(Py_LIMITED_API) && !defined(PGKEEP_FULL_API)
#define Py_LIMITED_API 0x030B0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__)
#error "needs the vector extensions of gcc or clang; without them pgkeep uses numpy"
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { BLOCK_SIZE = 64, CHUNK_SIZE = 1024, CV_SIZE = 32, KEY_SIZE = 32, HASH_SIZE = 8 };
enum { MIN_PAGE_SIZE = 1024, MAX_PAGE_SIZE = 32768 };
/* Offsets in PageHeaderData, src/include/storage/bufpage.h. */
enum { PD_CHECKSUM = 8, PD_UPPER = 14, CHECKSUM_ROW = 128 };
/* pgkeep.postgres.page.PageState; each page is exactly one of these. */
enum { STATE_DATA, STATE_ZERO, STATE_CHECKSUM_MISMATCH, STATE_INVALID_NEW };
/* Domain flags of BLAKE3. */
enum { CHUNK_START = 1, CHUNK_END = 2, PARENT = 4, ROOT = 8, KEYED_HASH = 16 };

#define IV0 0x6A09E667u
#define IV1 0xBB67AE85u
#define IV2 0x3C6EF372u
#define IV3 0xA54FF53Au

static const uint32_t CHECKSUM_OFFSETS[32] = {
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2,
    0x83E13D2C, 0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C,
    0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979,
    0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E,
    0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756};
#define CHECKSUM_STEP(x) (((x) * 16777619u) ^ ((x) >> 17))

/* How hash_many hashes: key, flags of every, the first and the last block of an input; the
 * chunk counter is the input's number masked, so that it starts again with every page. */
struct mode {
    uint32_t key[8];
    uint32_t flags, first_flags, last_flags, counter_mask;
};

/* Everything below works on a word as on a vector of words. */
#define ROTR(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define LITTLE_ENDIAN_WORDS(x) ((ROTR(x, 8) & 0xFF00FF00u) | (ROTR(x, 24) & 0x00FF00FFu))
#else
#define LITTLE_ENDIAN_WORDS(x) (x)
#endif

#define G(v, a, b, c, d, x, y)             \
    v[a] += v[b] + (x);                    \
    v[d] = ROTR16(v[d] ^ v[a]);            \
    v[c] += v[d];                          \
    v[b] = ROTR(v[b] ^ v[c], 12);          \
    v[a] += v[b] + (y);                    \
    v[d] = ROTR8(v[d] ^ v[a]);             \
    v[c] += v[d];                          \
    v[b] = ROTR(v[b] ^ v[c], 7);
#define ROUND(v, m, s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \
    G(v, 0, 4, 8, 12, m[s0], m[s1])        \
    G(v, 1, 5, 9, 13, m[s2], m[s3])        \
    G(v, 2, 6, 10, 14, m[s4], m[s5])       \
    G(v, 3, 7, 11, 15, m[s6], m[s7])       \
    G(v, 0, 5, 10, 15, m[s8], m[s9])       \
    G(v, 1, 6, 11, 12, m[s10], m[s11])     \
    G(v, 2, 7, 8, 13, m[s12], m[s13])      \
    G(v, 3, 4, 9, 14, m[s14], m[s15])
/* The message permutation of the specification, applied once more in every line. */
#define SEVEN_ROUNDS(v, m)                                                \
    ROUND(v, m, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)     \
    ROUND(v, m, 2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)     \
    ROUND(v, m, 3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1)     \
    ROUND(v, m, 10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6)     \
    ROUND(v, m, 12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4)     \
    ROUND(v, m, 9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7)     \
    ROUND(v, m, 11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef SHUFFLE
#define SHUFFLE(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif

static inline uint32_t load32(const uint8_t *from)
{
    uint32_t word;
    memcpy(&word, from, 4);
    return LITTLE_ENDIAN_WORDS(word);
}

static inline void store32(uint8_t *to, uint32_t word)
{
    word = LITTLE_ENDIAN_WORDS(word);
    memcpy(to, &word, 4);
}

#define LANES 4
#define TARGET
#define NAME(x) x##_portable
#include "_pages_lanes.h"

#if defined(__x86_64__)
#define LANES 8
#define TARGET __attribute__((target("avx2")))
#define NAME(x) x##_avx2
#define BYTES_OF_WORD(shift, word) \
    (char)((word) + ((shift) + 0) % 4), (char)((word) + ((shift) + 1) % 4), \
    (char)((word) + ((shift) + 2) % 4), (char)((word) + ((shift) + 3) % 4)
#define ROTATE_BYTES(x, shift) ((__typeof__(x))_mm256_shuffle_epi8((__m256i)(x), \
    _mm256_setr_epi8(BYTES_OF_WORD(shift, 0), BYTES_OF_WORD(shift, 4), \
                     BYTES_OF_WORD(shift, 8), BYTES_OF_WORD(shift, 12), \
                     BYTES_OF_WORD(shift, 0), BYTES_OF_WORD(shift, 4), \
                     BYTES_OF_WORD(shift, 8), BYTES_OF_WORD(shift, 12))))
#define ROTR16(x) ROTATE_BYTES(x, 2)
#define ROTR8(x) ROTATE_BYTES(x, 1)
#include "_pages_lanes.h"

#define LANES 16
#define TARGET __attribute__((target("avx512f")))
#define NAME(x) x##_avx512
#include "_pages_lanes.h"
#endif

/* ---- a partial page: plain BLAKE3 of any length below a page ---- */

#define ROTR16(x) ROTR(x, 16)
#define ROTR8(x) ROTR(x, 8)

static void compress(uint32_t cv[8], const uint8_t block[BLOCK_SIZE], uint32_t length,
                     uint32_t counter, uint32_t flags)
{
    uint32_t m[16];
    for (int i = 0; i < 16; i++)
        m[i] = load32(block + 4 * i);
    uint32_t v[16] = {cv[0], cv[1], cv[2], cv[3], cv[4], cv[5], cv[6], cv[7],
                      IV0, IV1, IV2, IV3, counter, 0, length, flags};
    SEVEN_ROUNDS(v, m)
    for (int i = 0; i < 8; i++)
        cv[i] = v[i] ^ v[i + 8];
}

/* Chaining value of up to 1024 bytes. */
static void hash_chunk(const uint8_t *in, size_t length, const uint32_t key[8],
                       uint32_t counter, uint32_t root, uint32_t cv[8])
{
    uint32_t flags = KEYED_HASH | CHUNK_START;
    memcpy(cv, key, CV_SIZE);
    for (; length > BLOCK_SIZE; in += BLOCK_SIZE, length -= BLOCK_SIZE) {
        compress(cv, in, BLOCK_SIZE, counter, flags);
        flags = KEYED_HASH;
    }
    uint8_t block[BLOCK_SIZE] = {0};
    memcpy(block, in, length);
    compress(cv, block, (uint32_t)length, counter, flags | CHUNK_END | root);
}

/* The left side is the largest power of two of chunks that leaves something for the right. */
static void hash_tree(const uint8_t *in, size_t length, const uint32_t key[8],
                      uint32_t counter, uint32_t root, uint32_t cv[8])
{
    if (length <= CHUNK_SIZE) {
        hash_chunk(in, length, key, counter, root, cv);
        return;
    }
    size_t left = CHUNK_SIZE;
    while (left * 2 < length)
        left *= 2;
    uint32_t side[8];
    uint8_t block[BLOCK_SIZE];
    hash_tree(in, left, key, counter, 0, side);
    for (int i = 0; i < 8; i++)
        store32(block + 4 * i, side[i]);
    hash_tree(in + left, length - left, key, counter + (uint32_t)(left / CHUNK_SIZE), 0, side);
    for (int i = 0; i < 8; i++)
        store32(block + CV_SIZE + 4 * i, side[i]);
    memcpy(cv, key, CV_SIZE);
    compress(cv, block, BLOCK_SIZE, 0, KEYED_HASH | PARENT | root);
}

/* ---- pages ---- */

struct kernel {
    const char *name;
    void (*hash_many)(const uint8_t *, size_t, size_t, const struct mode *, uint8_t *);
    uint32_t (*checksum)(const uint8_t *, size_t);
};

static const struct kernel KERNELS[] = {
#if defined(__x86_64__)
    {"avx512", hash_many_avx512, checksum_avx512},
    {"avx2", hash_many_avx2, checksum_avx2},
#endif
    {"portable", hash_many_portable, checksum_portable},
};
enum { KERNEL_COUNT = sizeof KERNELS / sizeof KERNELS[0] };

/* The first kernel that this processor (and its kernel's saved state) can run. */
static int first_kernel(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f"))
        return 0;
    if (__builtin_cpu_supports("avx2"))
        return 1;
#endif
    return KERNEL_COUNT - 1;
}

static uint16_t load16(const uint8_t *from) /* in the machine's order, as the server writes */
{
    uint16_t word;
    memcpy(&word, from, 2);
    return word;
}

static uint16_t page_checksum(const struct kernel *kernel, const uint8_t *page,
                              size_t page_size, uint32_t block)
{
    return (uint16_t)((kernel->checksum(page, page_size) ^ block) % 65535 + 1);
}

static int is_zero(const uint8_t *data, size_t size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

struct run {
    const struct kernel *kernel;
    const uint8_t *data;
    size_t size, page_size;
    int64_t first_block; /* negative: no checksums */
    uint32_t key[8];
    uint8_t *hashes, *states;
};

/* PageIsVerified of bufpage.c, without its sanity check of the header. */
static uint8_t judge_page(const struct run *run, size_t index)
{
    const uint8_t *page = run->data + index * run->page_size;
    if (run->first_block >= 0 && load16(page + PD_UPPER) != 0) {
        uint32_t block = (uint32_t)(run->first_block + (int64_t)index);
        uint16_t sum = page_checksum(run->kernel, page, run->page_size, block);
        return sum == load16(page + PD_CHECKSUM) ? STATE_DATA : STATE_CHECKSUM_MISMATCH;
    }
    if (is_zero(page, run->page_size))
        return STATE_ZERO;
    return run->first_block >= 0 ? STATE_INVALID_NEW : STATE_DATA;
}

/* At a time: enough chunks to fill all lanes four times even when pages have been folded to
 * a quarter, few enough that page and chaining values stay in the second-level cache. */
enum { BATCH_CHUNKS = 128 };

static void hash_pages(const struct run *run, size_t first, size_t count)
{
    uint8_t cvs[BATCH_CHUNKS * CV_SIZE];
    uint32_t width = (uint32_t)(run->page_size / CHUNK_SIZE);
    struct mode mode = {.flags = KEYED_HASH, .first_flags = CHUNK_START,
                        .last_flags = CHUNK_END | (width == 1 ? ROOT : 0),
                        .counter_mask = width - 1};
    memcpy(mode.key, run->key, sizeof mode.key);
    run->kernel->hash_many(run->data + first * run->page_size, count * width,
                           CHUNK_SIZE / BLOCK_SIZE, &mode, cvs);
    mode.first_flags = mode.last_flags = mode.counter_mask = 0;
    for (; width > 1; width /= 2) {
        mode.flags = KEYED_HASH | PARENT | (width == 2 ? ROOT : 0);
        run->kernel->hash_many(cvs, count * (width / 2), 1, &mode, cvs);
    }
    for (size_t i = 0; i < count; i++)
        memcpy(run->hashes + (first + i) * HASH_SIZE, cvs + i * CV_SIZE, HASH_SIZE);
}

static void scan_partial(const struct run *run, size_t index)
{
    const uint8_t *page = run->data + index * run->page_size;
    size_t length = run->size - index * run->page_size;
    uint32_t cv[8];
    hash_tree(page, length, run->key, 0, ROOT, cv);
    store32(run->hashes + index * HASH_SIZE, cv[0]);
    store32(run->hashes + index * HASH_SIZE + 4, cv[1]);
    run->states[index] = is_zero(page, length) ? STATE_ZERO : STATE_DATA;
}

static void scan_run(const struct run *run)
{
    size_t pages = run->size / run->page_size;
    size_t batch = BATCH_CHUNKS * CHUNK_SIZE / run->page_size;
    for (size_t first = 0; first < pages; first += batch) {
        size_t count = pages - first < batch ? pages - first : batch;
        hash_pages(run, first, count);
        for (size_t i = first; i < first + count; i++)
            run->states[i] = judge_page(run, i);
    }
    if (run->size % run->page_size != 0)
        scan_partial(run, pages);
}

/* ---- Python ---- */

static int valid_page_size(Py_ssize_t page_size)
{
    if (page_size >= MIN_PAGE_SIZE && page_size <= MAX_PAGE_SIZE
        && (page_size & (page_size - 1)) == 0)
        return 1;
    PyErr_Format(PyExc_ValueError, "page size %zd is no power of two from 1024 to 32768",
                 page_size);
    return 0;
}

static const struct kernel *find_kernel(const char *name)
{
    for (int i = first_kernel(); i < KERNEL_COUNT; i++)
        if (strcmp(KERNELS[i].name, name) == 0)
            return &KERNELS[i];
    PyErr_Format(PyExc_ValueError, "no kernel %s on this machine", name);
    return NULL;
}

static PyObject *scan_into_new(struct run *run)
{
    Py_ssize_t pages = (Py_ssize_t)((run->size + run->page_size - 1) / run->page_size);
    PyObject *hashes = PyBytes_FromStringAndSize(NULL, pages * HASH_SIZE);
    PyObject *states = PyBytes_FromStringAndSize(NULL, pages);
    PyObject *result = NULL;
    if (hashes != NULL && states != NULL) {
        run->hashes = (uint8_t *)PyBytes_AsString(hashes);
        run->states = (uint8_t *)PyBytes_AsString(states);
        Py_BEGIN_ALLOW_THREADS
        scan_run(run);
        Py_END_ALLOW_THREADS
        result = PyTuple_Pack(2, hashes, states);
    }
    Py_XDECREF(hashes);
    Py_XDECREF(states);
    return result;
}

PyDoc_STRVAR(scan_doc,
"scan(data, page_size, key, first_block, kernel) -> (hashes, states)\n\n"
"Eight bytes of keyed BLAKE3 and one byte of state for every page of data; first_block -1\n"
"verifies no checksums. Releases the GIL.");

static PyObject *scan(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data, key;
    Py_ssize_t page_size;
    long long first_block;
    const char *kernel;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*ny*Ls:scan", &data, &page_size, &key, &first_block, &kernel))
        return NULL;
    struct run run = {.data = data.buf, .size = (size_t)data.len,
                      .page_size = (size_t)page_size, .first_block = first_block};
    if (!valid_page_size(page_size))
        goto done;
    if (key.len != KEY_SIZE) {
        PyErr_SetString(PyExc_ValueError, "the key of page hashes has 32 bytes");
        goto done;
    }
    if (first_block < -1 || first_block > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "a block number has 32 bits");
        goto done;
    }
    for (int i = 0; i < 8; i++)
        run.key[i] = load32((const uint8_t *)key.buf + 4 * i);
    run.kernel = find_kernel(kernel);
    if (run.kernel != NULL)
        result = scan_into_new(&run);
done:
    PyBuffer_Release(&data);
    PyBuffer_Release(&key);
    return result;
}

PyDoc_STRVAR(checksum_doc,
"checksum(page, block, kernel) -> int\n\n"
"The checksum that PostgreSQL would write into this page as this block of its relation.");

static PyObject *checksum(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer page;
    unsigned int block;
    const char *kernel;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*Is:checksum", &page, &block, &kernel))
        return NULL;
    const struct kernel *chosen = valid_page_size(page.len) ? find_kernel(kernel) : NULL;
    if (chosen != NULL)
        result = PyLong_FromLong(page_checksum(chosen, page.buf, (size_t)page.len, block));
    PyBuffer_Release(&page);
    return result;
}

PyDoc_STRVAR(kernels_doc,
"kernels() -> tuple of str\n\nWhat this machine can run, the fastest first.");

static PyObject *kernels(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    int first = first_kernel();
    PyObject *names = PyTuple_New(KERNEL_COUNT - first);
    for (int i = first; names != NULL && i < KERNEL_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(KERNELS[i].name);
        if (name == NULL || PyTuple_SetItem(names, i - first, name) < 0)
            Py_CLEAR(names);
    }
    return names;
}

static PyMethodDef methods[] = {
    {"scan", scan, METH_VARARGS, scan_doc},
    {"checksum", checksum, METH_VARARGS, checksum_doc},
    {"kernels", kernels, METH_NOARGS, kernels_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_pages",
    .m_doc = "Page hashes and page checksums; see pgkeep.postgres.page.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__pages(void)
{
    return PyModuleDef_Init(&definition);
}

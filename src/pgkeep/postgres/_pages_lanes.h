/*
 * The two inner loops, once per vector width. _pages.c includes this file with
 *
 *   LANES       how many 32-bit lanes a vector has: 4, 8 or 16
 *   TARGET      function attribute that allows the instructions for them
 *   NAME(x)     the name of x in this copy
 *   ROTR8/16(x) rotation of each lane, where the machine has a shortcut (optional)
 *
 * Written with the vector extensions that gcc and clang share, so one text serves x86-64,
 * arm64 and everything else. Intrinsics per machine were the alternative: three texts.
 * BLAKE3's own trick for short inputs is used the other way round: a lane is a chunk, and
 * since a page is a power of two of chunks, the chunks of many pages fill all lanes.
 */

typedef uint32_t NAME(vec) __attribute__((vector_size(4 * LANES)));
#define V NAME(vec)

#ifndef ROTR16
#define ROTR16(x) ROTR(x, 16)
#define ROTR8(x) ROTR(x, 8)
#endif

#if LANES == 16
#define ZIP_LOW(a, b) SHUFFLE(V, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define ZIP_HIGH(a, b) \
    SHUFFLE(V, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define ZIP_LOW(a, b) SHUFFLE(V, a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define ZIP_HIGH(a, b) SHUFFLE(V, a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define ZIP_LOW(a, b) SHUFFLE(V, a, b, 0, 4, 1, 5)
#define ZIP_HIGH(a, b) SHUFFLE(V, a, b, 2, 6, 3, 7)
#endif

/* LANES words of each of LANES inputs in, the same word of every input together out: zipping
 * row i with row i + LANES/2 moves one bit of the row number into the lane number. */
TARGET static inline void NAME(transpose)(V rows[LANES])
{
    V zipped[LANES];
    for (int width = 1; width < LANES; width *= 2) {
        for (int i = 0; i < LANES / 2; i++) {
            zipped[2 * i] = ZIP_LOW(rows[i], rows[i + LANES / 2]);
            zipped[2 * i + 1] = ZIP_HIGH(rows[i], rows[i + LANES / 2]);
        }
        for (int i = 0; i < LANES; i++)
            rows[i] = zipped[i];
    }
}

/* The 16 message words of one 64-byte block of every lane. */
TARGET static inline void NAME(load_block)(V m[16], const uint8_t *const inputs[LANES],
                                           size_t offset)
{
    for (int part = 0; part < 16; part += LANES) {
        for (int lane = 0; lane < LANES; lane++)
            memcpy(&m[part + lane], inputs[lane] + offset + 4 * part, 4 * LANES);
        NAME(transpose)(m + part);
    }
    for (int i = 0; i < 16; i++)
        m[i] = LITTLE_ENDIAN_WORDS(m[i]);
}

/* BLAKE3 chaining values of up to LANES adjacent inputs of blocks x 64 bytes each. */
TARGET static void NAME(hash_lanes)(const uint8_t *in, size_t count, size_t blocks,
                                    const struct mode *mode, uint32_t first, uint8_t *out)
{
    const uint8_t *inputs[LANES];
    uint32_t words[LANES];
    V cv[8], counters, zero = {0};
    for (size_t lane = 0; lane < LANES; lane++) {
        /* A lane without work repeats the last input; its result is not stored. */
        inputs[lane] = in + (lane < count ? lane : count - 1) * blocks * BLOCK_SIZE;
        words[lane] = (first + (uint32_t)lane) & mode->counter_mask;
    }
    memcpy(&counters, words, sizeof counters);
    for (int i = 0; i < 8; i++)
        cv[i] = zero + mode->key[i];
    for (size_t block = 0; block < blocks; block++) {
        uint32_t flags = mode->flags | (block == 0 ? mode->first_flags : 0)
                         | (block == blocks - 1 ? mode->last_flags : 0);
        V m[16];
        NAME(load_block)(m, inputs, block * BLOCK_SIZE);
        V v[16] = {cv[0], cv[1], cv[2], cv[3], cv[4], cv[5], cv[6], cv[7],
                   zero + IV0, zero + IV1, zero + IV2, zero + IV3,
                   counters, zero, zero + BLOCK_SIZE, zero + flags};
        SEVEN_ROUNDS(v, m)
        for (int i = 0; i < 8; i++)
            cv[i] = v[i] ^ v[i + 8];
    }
    for (int i = 0; i < 8; i++) {
        memcpy(words, &cv[i], sizeof words);
        for (size_t lane = 0; lane < count; lane++)
            store32(out + lane * CV_SIZE + 4 * i, words[lane]);
    }
}

/* The same for any number of inputs. out may be where in is if blocks is 1: a chaining value
 * is half a block, so writing stays behind reading. */
TARGET static void NAME(hash_many)(const uint8_t *in, size_t count, size_t blocks,
                                   const struct mode *mode, uint8_t *out)
{
    for (size_t i = 0; i < count; i += LANES) {
        size_t lanes = count - i < LANES ? count - i : LANES;
        NAME(hash_lanes)(in + i * blocks * BLOCK_SIZE, lanes, blocks, mode, (uint32_t)i,
                         out + i * CV_SIZE);
    }
}

/* PostgreSQL's page checksum before the block number is mixed in (checksum_impl.h): 32 columns
 * of 32-bit words in the machine's byte order, pd_checksum itself taken as zero. */
TARGET static uint32_t NAME(checksum)(const uint8_t *page, size_t page_size)
{
    V sums[32 / LANES], row[32 / LANES];
    uint32_t columns[32], folded = 0;
    uint8_t head[CHECKSUM_ROW];
    memcpy(head, page, CHECKSUM_ROW);
    memset(head + PD_CHECKSUM, 0, 2);
    memcpy(sums, CHECKSUM_OFFSETS, sizeof sums);
    memcpy(row, head, CHECKSUM_ROW);
    for (size_t offset = CHECKSUM_ROW; ; offset += CHECKSUM_ROW) {
        for (int i = 0; i < 32 / LANES; i++)
            sums[i] = CHECKSUM_STEP(sums[i] ^ row[i]);
        if (offset == page_size)
            break;
        memcpy(row, page + offset, CHECKSUM_ROW);
    }
    for (int i = 0; i < 32 / LANES; i++) {
        sums[i] = CHECKSUM_STEP(sums[i]);
        sums[i] = CHECKSUM_STEP(sums[i]);
    }
    memcpy(columns, sums, sizeof columns);
    for (int i = 0; i < 32; i++)
        folded ^= columns[i];
    return folded;
}

#undef ZIP_LOW
#undef ZIP_HIGH
#undef ROTR8
#undef ROTR16
#undef V
#undef LANES
#undef TARGET
#undef NAME

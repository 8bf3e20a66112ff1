/* The forward pass of TinyGPT (model.py) in plain C: rows of tokens in, logits out, in fp32. native.py calls it.

A row is one token at one position of the text in one slot. All rows go through the layers together, so that weights
are read once for many rows, but no row can tell: the sum of every product is one chain of fused multiply-adds, taken
in the same order whatever stands beside it. Hence two rules for whoever changes this file:
  - a lane of a vector belongs to one output; lanes are added together only where one row is looked at by itself;
  - the compiler may not contract or reorder (-ffp-contract=off, no -ffast-math); `multiply_add` is the one place
    where a product and a sum become one rounding.

Shapes, as in model.py: C = n_embd, H = n_heads, G = n_kv_heads, K = d_head, F = d_ff, V = vocab_size, S = block_size.
Matrices lie in panels of 64 columns, a panel after the other: [columns / 64][inputs][64], zeros where columns end. */

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16, ALONE = 4, BESIDE = 4 }; /* vectors of sums held in registers: for one row, for each of ROWS */
#elif defined(__AVX__)
enum { LANES = 8, ALONE = 8, BESIDE = 2 };
#elif defined(__aarch64__)
enum { LANES = 4, ALONE = 16, BESIDE = 4 };
#else
enum { LANES = 4, ALONE = 8, BESIDE = 2 };
#endif
enum { ROWS = 4, PANEL = 64, CHUNK = 64 }; /* rows of a tile, columns of a panel, rows that pass the layers together */

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias)); /* may begin at any float */
typedef int mask __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

typedef struct { /* ModelConfig; feed_forward is 0 gelu, 1 gelu_tanh, 2 swiglu; what stands behind it is 0 or 1 */
    int vocab_size, n_embd, n_heads, n_kv_heads, n_layers, block_size, d_head, d_ff;
    int feed_forward, rotary, rmsnorm, norm_before, qk_norm;
} Shape;

static int up_to(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }
static int smaller(int a, int b) { return a < b ? a : b; }

/* --- vectors ------------------------------------------------------------------------------------------------------ */

INLINE vec *at(const float *x) { return (vec *)x; }

INLINE vec every(float x) { return x - (vec){0}; }

/* a * b + c, rounded once where the machine can; where it cannot, twice, but everywhere twice. */
INLINE vec multiply_add(vec a, vec b, vec c)
{
#if defined(__FMA__) || defined(__aarch64__) || defined(__FP_FAST_FMAF)
    for (int i = 0; i < LANES; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

INLINE vec pick(mask yes, vec a, vec b) { return (vec)((yes & (mask)a) | (~yes & (mask)b)); }

/* e^x by e^x = 2^n e^r, |r| <= ln 2 / 2, and the Taylor series of e^r up to r^7: off by about one unit in the last
   place. Beyond +-87, where fp32 ends, x counts as +-87; NaN stays NaN. */
INLINE vec exponential(vec x)
{
    x = pick(x < every(-87), every(-87), pick(x > every(87), every(87), x));
    const vec shift = every(12582912); /* 1.5 * 2^23: adding it rounds to a whole number */
    vec n = (x * 1.44269504f + shift) - shift;
    vec r = multiply_add(n, every(-0.693145752f), x); /* ln 2 in two parts: the first has zeros at its end */
    r = multiply_add(n, every(-1.42860677e-6f), r);
    vec sum = every(1.0f / 5040);
    const float series[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
    for (int i = 0; i < 7; i++)
        sum = multiply_add(sum, r, every(series[i]));
    mask power = (__builtin_convertvector(n, mask) + 127) << 23; /* the bits of 2^n */
    return sum * (vec)power;
}

static float lanes_added(vec x)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += x[i];
    return sum;
}

static float total(const float *x, int n)
{
    vec sum = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        sum += *at(x + i);
    float all = lanes_added(sum);
    for (; i < n; i++)
        all += x[i];
    return all;
}

static float total_of_squares(const float *x, int n)
{
    vec sum = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        sum = multiply_add(*at(x + i), *at(x + i), sum);
    float all = lanes_added(sum);
    for (; i < n; i++)
        all += x[i] * x[i];
    return all;
}

/* --- products ----------------------------------------------------------------------------------------------------- */

/* A loop that is written out, so that sum[i] is a register. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

/* y[r][o] = start[o] + sum over i < n of x[r][i] m[i][o], for R rows and N vectors of columns o. R and N are constants
   where this is called, so the sums live in registers. */
INLINE void tile(const int R, const int N, const float *x, long x_step, const float *m, long m_step, int n,
                 const float *start, float *y, long y_step)
{
    vec sum[ROWS][16];
    EACH (r, R) EACH (v, N) sum[r][v] = start ? *at(start + v * LANES) : (vec){0};
    for (int i = 0; i < n; i++)
        EACH (r, R) EACH (v, N)
            sum[r][v] = multiply_add(every(x[r * x_step + i]), *at(m + i * m_step + v * LANES), sum[r][v]);
    EACH (r, R) EACH (v, N) *at(y + r * y_step + v * LANES) = sum[r][v];
}

/* The same for any number of rows and for the columns o < width, rounded up to whole vectors. start may be NULL: 0. */
static void product(int rows, const float *x, long x_step, const float *m, long m_step, int n, int width,
                    const float *start, float *y, long y_step)
{
#define STRIP(R, N) \
    for (; o + (N) * LANES <= end; o += (N) * LANES) \
        tile(R, N, x + r * x_step, x_step, m + o, m_step, n, start ? start + o : 0, y + r * y_step + o, y_step);
    int r = 0, end = up_to(width, LANES);
    for (; r + ROWS <= rows; r += ROWS) {
        int o = 0;
        STRIP(ROWS, BESIDE)
        STRIP(ROWS, 1)
    }
    for (; r < rows; r++) {
        int o = 0;
        STRIP(1, ALONE)
        STRIP(1, ALONE / 2)
        STRIP(1, 1)
    }
#undef STRIP
}

/* y[r] = bias + W x[r] for a matrix in panels. y is written up to a multiple of PANEL. */
static void linear(int rows, const float *x, long x_step, int inputs, int outputs, const float *w, const float *bias,
                   float *y, long y_step)
{
    for (int o = 0; o < outputs; o += PANEL)
        product(rows, x, x_step, w + (long)o * inputs, PANEL, inputs, PANEL, bias ? bias + o : 0, y + o, y_step);
}

/* --- what a row does by itself ------------------------------------------------------------------------------------ */

/* y = (x - mean) / std * weight + bias, or x / root-mean-square * weight. y may be x. */
static void normalise(int rms, int n, const float *x, const float *weight, const float *bias, float *y)
{
    float mean = rms ? 0 : total(x, n) / n;
    for (int i = 0; i < n; i++)
        y[i] = x[i] - mean;
    float scale = 1 / sqrtf(total_of_squares(y, n) / n + (rms ? 1e-6f : 1e-5f));
    for (int i = 0; i < n; i++)
        y[i] = y[i] * scale * weight[i];
    for (int i = 0; !rms && i < n; i++)
        y[i] += bias[i];
}

/* The pairs (x[j], x[j + K/2]) turned by the angles of a position. */
static void rotate(int half, const float *cos, const float *sin, float *x)
{
    for (int j = 0; j < half; j++) {
        float a = x[j], b = x[j + half];
        x[j] = a * cos[j] - b * sin[j];
        x[j + half] = b * cos[j] + a * sin[j];
    }
}

/* s = e^s / sum e^s over n numbers; behind them is room for a whole vector. */
static void softmax(int n, float *s)
{
    vec top = every(-INFINITY), sum = {0};
    for (int i = n; i < up_to(n, LANES); i++)
        s[i] = -INFINITY;
    for (int i = 0; i < n; i += LANES)
        top = pick(*at(s + i) > top, *at(s + i), top);
    float largest = top[0];
    for (int i = 1; i < LANES; i++)
        largest = top[i] > largest ? top[i] : largest;
    for (int i = 0; i < n; i += LANES)
        sum += *at(s + i) = exponential(*at(s + i) - largest);
    float share = 1 / lanes_added(sum);
    for (int i = 0; i < n; i += LANES)
        *at(s + i) *= share;
}

/* 1 + erf(z) for z = x / sqrt 2, to 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26). */
INLINE vec one_plus_erf(vec z)
{
    vec size = pick(z < every(0), -z, z), t = 1.0f / (1.0f + 0.3275911f * size), sum = every(1.061405429f);
    const float series[] = {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f, 0};
    for (int i = 0; i < 5; i++)
        sum = multiply_add(sum, t, every(series[i]));
    vec rest = sum * exponential(-size * size); /* 1 - erf(|z|) */
    return pick(z < every(0), rest, 2.0f - rest);
}

/* The hidden layer of the feed-forward from what `up` gave; for swiglu, h holds gate(x) and behind it up(x). */
static void activate(int kind, int n, float *h)
{
    for (int i = 0; i < n; i += LANES) {
        vec x = *at(h + i);
        if (kind == 0)
            x = 0.5f * x * one_plus_erf(x * 0.707106781f);
        else if (kind == 1) /* (1 + tanh u) / 2 = 1 / (1 + e^-2u) */
            x = x / (1.0f + exponential(-1.59576912f * (x + 0.044715f * x * x * x)));
        else
            x = x / (1.0f + exponential(-x)) * *at(h + up_to(n, PANEL) + i);
        *at(h + i) = x;
    }
}

/* --- the model ---------------------------------------------------------------------------------------------------- */

/* The next n numbers of the weights; every piece begins at a multiple of 16. */
static const float *take(const float **weights, long n)
{
    const float *here = *weights;
    *weights += (n + 15) / 16 * 16;
    return here;
}

static const float *take_matrix(const float **weights, int inputs, int outputs)
{
    return take(weights, (long)inputs * up_to(outputs, PANEL));
}

/* Columns of query, key and value together; of the hidden layer (swiglu: of both halves); of the widest of all. */
static int qkv_width(const Shape *s) { return (s->n_heads + 2 * s->n_kv_heads) * s->d_head; }
static int hidden_width(const Shape *s) { return s->feed_forward == 2 ? 2 * up_to(s->d_ff, PANEL) : s->d_ff; }
static int widest(const Shape *s)
{
    int a = up_to(qkv_width(s), PANEL), b = up_to(hidden_width(s), PANEL);
    return a > b ? a : b;
}

/* Keys and values of one slot in one layer: the keys of a head are a matrix in panels, with a column for every position,
   so that scores are a product like all others; values are [G][S][K], K rounded up to 16. */
static long keys_size(const Shape *s) { return (long)s->n_kv_heads * s->d_head * up_to(s->block_size, PANEL); }
static long values_size(const Shape *s) { return (long)s->n_kv_heads * s->block_size * up_to(s->d_head, 16); }

/* Floats of scratch memory that `forward` needs. */
long scratch_size(const Shape *s)
{
    return CHUNK * (2L * up_to(s->n_embd, PANEL) + widest(s) + s->n_heads * s->d_head)
         + up_to(s->block_size, PANEL) + up_to(s->d_head, 16);
}

/* Numbers of keys and of values that the cache holds for n slots. */
long cache_size(const Shape *s, int n_slots, int of_values)
{
    return n_slots * s->n_layers * (of_values ? values_size(s) : keys_size(s));
}

/* softmax(q k^T / sqrt K) v of every head of one row; q is scaled here. Result: joined heads, [H * K]. */
static void look(const Shape *s, int position, float *q, const float *keys, const float *values, float *scores,
                 float *mixed, float *heads)
{
    const int K = s->d_head, S = up_to(s->block_size, PANEL), KV = up_to(K, 16), sharing = s->n_heads / s->n_kv_heads;
    const float scale = 1 / sqrtf((float)K);
    for (int i = 0; i < s->n_heads * K; i++)
        q[i] *= scale;
    for (int h = 0; h < s->n_heads; h++) {
        const float *k = keys + (long)(h / sharing) * K * S, *v = values + (long)(h / sharing) * s->block_size * KV;
        linear(1, q + h * K, 0, K, position + 1, k, 0, scores, 0);
        softmax(position + 1, scores);
        product(1, scores, 0, v, KV, position + 1, K, 0, mixed, 0);
        memcpy(heads + h * K, mixed, K * sizeof(float));
    }
}

/* Queries and keys normalised and turned; keys and values of one row stored in the cache. */
static void store(const Shape *s, int position, float *qkv, const float *q_norm, const float *k_norm,
                  const float *cos, const float *sin, float *keys, float *values)
{
    const int H = s->n_heads, G = s->n_kv_heads, K = s->d_head, S = up_to(s->block_size, PANEL), KV = up_to(K, 16);
    for (int h = 0; h < H + G; h++) {
        float *x = qkv + h * K;
        if (s->qk_norm)
            normalise(1, K, x, h < H ? q_norm : k_norm, 0, x);
        if (s->rotary)
            rotate(K / 2, cos + (long)position * (K / 2), sin + (long)position * (K / 2), x);
    }
    for (int g = 0; g < G; g++) {
        const float *k = qkv + (H + g) * K, *v = qkv + (H + G + g) * K;
        float *panel = keys + (long)g * K * S + (long)(position / PANEL) * K * PANEL;
        for (int i = 0; i < K; i++)
            panel[i * PANEL + position % PANEL] = k[i];
        memcpy(values + ((long)g * s->block_size + position) * KV, v, K * sizeof(float));
    }
}

static void normalise_rows(const Shape *s, int rows, const float *x, const float *weight, const float *bias, float *y)
{
    const int step = up_to(s->n_embd, PANEL);
    for (int r = 0; r < rows; r++)
        normalise(s->rmsnorm, s->n_embd, x + r * step, weight, bias, y + r * step);
}

static void add(long n, const float *restrict y, float *restrict x)
{
    for (long i = 0; i < n; i++)
        x[i] += y[i];
}

/* At most CHUNK rows through all layers; `rest` are the weights behind the embeddings. x [rows][C up to PANEL]: the
   embedded tokens, and in the end what the last layer gave. */
static const float *layers(const Shape *s, const float *rest, const float *cos, const float *sin, float *keys,
                           float *values, int rows, const int *positions, const int *slots, float *x)
{
    const int C = s->n_embd, H = s->n_heads, K = s->d_head, before = s->norm_before;
    const int step = up_to(C, PANEL), wide = widest(s), qkv = qkv_width(s), up = hidden_width(s);
    float *y = x + CHUNK * step, *hidden = y + CHUNK * step, *heads = hidden + (long)CHUNK * wide;
    float *scores = heads + (long)CHUNK * H * K, *mixed = scores + up_to(s->block_size, PANEL);
    const float *in = before ? y : x; /* of each of the two parts of a layer */

    for (int layer = 0; layer < s->n_layers; layer++) {
        const float *norm_weight = take(&rest, C), *norm_bias = take(&rest, C);
        const float *w = take_matrix(&rest, C, qkv), *bias = take(&rest, up_to(qkv, PANEL));
        const float *q_norm = take(&rest, K), *k_norm = take(&rest, K);
        if (before)
            normalise_rows(s, rows, x, norm_weight, norm_bias, y);
        linear(rows, in, step, C, qkv, w, bias, hidden, wide);
        for (int r = 0; r < rows; r++) {
            long place = (long)slots[r] * s->n_layers + layer;
            store(s, positions[r], hidden + (long)r * wide, q_norm, k_norm, cos, sin,
                  keys + place * keys_size(s), values + place * values_size(s));
        }
        for (int r = 0; r < rows; r++) {
            long place = (long)slots[r] * s->n_layers + layer;
            look(s, positions[r], hidden + (long)r * wide, keys + place * keys_size(s), values + place * values_size(s),
                 scores, mixed, heads + r * H * K);
        }
        w = take_matrix(&rest, H * K, C), bias = take(&rest, step);
        linear(rows, heads, H * K, H * K, C, w, bias, y, step);
        add((long)rows * step, y, x);
        if (!before)
            normalise_rows(s, rows, x, norm_weight, norm_bias, x);

        norm_weight = take(&rest, C), norm_bias = take(&rest, C);
        if (before)
            normalise_rows(s, rows, x, norm_weight, norm_bias, y);
        w = take_matrix(&rest, C, up), bias = take(&rest, up_to(up, PANEL));
        linear(rows, in, step, C, up, w, bias, hidden, wide);
        for (int r = 0; r < rows; r++)
            activate(s->feed_forward, s->d_ff, hidden + (long)r * wide);
        w = take_matrix(&rest, s->d_ff, C), bias = take(&rest, step);
        linear(rows, hidden, wide, s->d_ff, C, w, bias, y, step);
        add((long)rows * step, y, x);
        if (!before)
            normalise_rows(s, rows, x, norm_weight, norm_bias, x);
    }
    return rest;
}

/* Logits [n_wanted][V up to PANEL] of the wanted rows. keys and values are changed at the rows' positions; features
   [n_wanted][C up to PANEL] and scratch hold nothing of value afterwards. */
void forward(const Shape *s, const float *weights, float *keys, float *values, float *scratch, int n_rows,
             const int *tokens, const int *positions, const int *slots, int n_wanted, const int *wanted,
             float *features, float *logits)
{
    const int C = s->n_embd, V = s->vocab_size, step = up_to(C, PANEL);
    const float *embedding = take(&weights, (long)V * C);
    const float *table = take(&weights, s->rotary ? 0 : (long)s->block_size * C);
    const float *cos = take(&weights, s->rotary ? (long)s->block_size * (s->d_head / 2) : 0);
    const float *sin = take(&weights, s->rotary ? (long)s->block_size * (s->d_head / 2) : 0);
    const float *rest = weights;

    for (int first = 0; first < n_rows; first += CHUNK) {
        const int rows = smaller(CHUNK, n_rows - first);
        for (int r = 0; r < rows; r++) {
            memcpy(scratch + r * step, embedding + (long)tokens[first + r] * C, C * sizeof(float));
            if (!s->rotary)
                add(C, table + (long)positions[first + r] * C, scratch + r * step);
        }
        rest = layers(s, weights, cos, sin, keys, values, rows, positions + first, slots + first, scratch);
        for (int i = 0; i < n_wanted; i++)
            if (wanted[i] >= first && wanted[i] < first + rows)
                memcpy(features + (long)i * step, scratch + (wanted[i] - first) * step, C * sizeof(float));
    }
    if (!n_wanted)
        return;
    const float *norm_weight = take(&rest, C), *norm_bias = take(&rest, C);
    normalise_rows(s, n_wanted, features, norm_weight, norm_bias, features);
    linear(n_wanted, features, step, C, V, take_matrix(&rest, C, V), 0, logits, up_to(V, PANEL));
}

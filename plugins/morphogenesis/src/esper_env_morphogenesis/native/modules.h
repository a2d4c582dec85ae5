/* The modules of blueprints/: their forward and backward passes over feature maps of 16 signals. */
#ifndef ESPER_MODULES_H
#define ESPER_MODULES_H

#include "lanes.h"

typedef struct {
    vf first[FLAT], second[FLAT]; /* what a module's backward pass needs of its forward pass */
} saved;

/* y = W x + b at every position; W is CH x CH, row by row. */
static inline void mix(const float *w, const float *b, map x, map y) {
    EACH(p, POS) {
        vf in[CH];
        UNROLL EACH(i, CH) in[i] = x[i][p];
        EACH(o, CH) {
            vf sum = splat(b ? b[o] : 0.0f);
            UNROLL EACH(i, CH) sum += splat(w[o * CH + i]) * in[i];
            y[o][p] = sum;
        }
    }
}

/* gx += W' g. */
static inline void mix_input(const float *w, map g, map gx) {
    EACH(p, POS) {
        vf in[CH];
        UNROLL EACH(o, CH) in[o] = g[o][p];
        EACH(i, CH) {
            vf sum = gx[i][p];
            UNROLL EACH(o, CH) sum += splat(w[o * CH + i]) * in[o];
            gx[i][p] = sum;
        }
    }
}

/* gw += g x', gb += g. */
static inline void mix_weight(map g, map x, vf *gw, vf *gb) {
    EACH(o, CH) {
        vf sum[CH], bias = splat(0.0f);
        UNROLL EACH(i, CH) sum[i] = gw[o * CH + i];
        EACH(p, POS) {
            vf up = g[o][p];
            bias += up;
            UNROLL EACH(i, CH) sum[i] += up * x[i][p];
        }
        UNROLL EACH(i, CH) gw[o * CH + i] = sum[i];
        if (gb) gb[o] += bias;
    }
}

static void module_forward(int kind, const float *w, map x, map y, saved *keep) {
    switch (kind) {
    case NORM:
        EACH(p, POS) {
            vf mean = splat(0.0f), square = splat(0.0f), d[CH];
            EACH(c, CH) mean += x[c][p];
            mean *= splat(1.0f / CH);
            EACH(c, CH) d[c] = x[c][p] - mean;
            EACH(c, CH) square += d[c] * d[c];
            vf scale = inverse_root(square * splat(1.0f / CH) + splat(1e-2f));
            keep->second[p] = scale;
            EACH(c, CH) {
                vf unit = d[c] * scale;
                keep->first[c * POS + p] = unit;
                y[c][p] = unit * splat(w[c]) + splat(w[CH + c]);
            }
        }
        break;
    case GATED: {
        vf(*gate)[POS] = (void *)keep->first, (*value)[POS] = (void *)keep->second;
        mix(w, w + CH * CH, x, gate);
        mix(w + BLOCK, NULL, x, value);
        EACH(c, CH) EACH(p, POS) {
            gate[c][p] = splat(1.0f) / (splat(1.0f) + exponential(-gate[c][p]));
            y[c][p] = gate[c][p] * value[c][p];
        }
        break;
    }
    case CONV:
        EACH(p, POS) EACH(o, CH) {
            vf sum = splat(w[CH * CH * WIDTH + o]);
            EACH(k, WIDTH) {
                int at = p + k - WIDTH / 2;
                if (at < 0 || at >= POS) continue;
                UNROLL EACH(c, CH) sum += splat(w[o * CH * WIDTH + k * CH + c]) * x[c][at];
            }
            y[o][p] = positive(sum, sum);
        }
        memcpy(keep->first, y, sizeof(map));
        break;
    case LINEAR:
        EACH(p, POS) {
            vf sum[CH];
            UNROLL EACH(c, CH) sum[c] = splat(0.0f);
            EACH(q, POS) {
                vf weight = splat(w[p * POS + q]);
                UNROLL EACH(c, CH) sum[c] += weight * x[c][q];
            }
            UNROLL EACH(c, CH) y[c][p] = sum[c];
        }
        break;
    default: {
        const float *b = w + HIDDEN * FLAT, *up = b + HIDDEN;
        const vf *in = &x[0][0];
        vf *out = &y[0][0], *hidden = keep->first;
        EACH(j, HIDDEN) {
            vf sum = splat(b[j]);
            EACH(k, FLAT) sum += splat(w[j * FLAT + k]) * in[k];
            hidden[j] = positive(sum, sum);
        }
        EACH(k, FLAT) {
            vf sum = splat(0.0f);
            UNROLL EACH(j, HIDDEN) sum += splat(up[k * HIDDEN + j]) * hidden[j];
            out[k] = sum;
        }
    }
    }
}

/* Adds the gradient of the parameters to gw (NULL: they are frozen) and that of the input to gx (NULL: detached). */
static void module_backward(int kind, const float *w, map x, map g, saved *keep, vf *gw, map gx) {
    map a, b;
    switch (kind) {
    case NORM:
        EACH(p, POS) {
            vf mean = splat(0.0f), along = splat(0.0f), scaled[CH];
            EACH(c, CH) {
                vf unit = keep->first[c * POS + p];
                if (gw) gw[c] += g[c][p] * unit, gw[CH + c] += g[c][p];
                scaled[c] = g[c][p] * splat(w[c]);
                mean += scaled[c];
                along += scaled[c] * unit;
            }
            mean *= splat(1.0f / CH), along *= splat(1.0f / CH);
            if (gx) EACH(c, CH) gx[c][p] += keep->second[p] * (scaled[c] - mean - keep->first[c * POS + p] * along);
        }
        break;
    case GATED: {
        vf(*gate)[POS] = (void *)keep->first, (*value)[POS] = (void *)keep->second;
        EACH(c, CH) EACH(p, POS) {
            vf s = gate[c][p];
            a[c][p] = g[c][p] * value[c][p] * s * (splat(1.0f) - s);
            b[c][p] = g[c][p] * s;
        }
        if (gw) mix_weight(a, x, gw, gw + CH * CH), mix_weight(b, x, gw + BLOCK, NULL);
        if (gx) mix_input(w, a, gx), mix_input(w + BLOCK, b, gx);
        break;
    }
    case CONV:
        EACH(k, FLAT)(&a[0][0])[k] = positive((&g[0][0])[k], keep->first[k]);
        if (gw) EACH(o, CH) {
            vf bias = splat(0.0f);
            EACH(p, POS) bias += a[o][p];
            gw[CH * CH * WIDTH + o] += bias;
            EACH(k, WIDTH) {
                vf sum[CH], *to = gw + o * CH * WIDTH + k * CH;
                UNROLL EACH(c, CH) sum[c] = to[c];
                for (int p = k ? 0 : 1; p < POS - (k == WIDTH - 1); p++) {
                    UNROLL EACH(c, CH) sum[c] += a[o][p] * x[c][p + k - 1];
                }
                UNROLL EACH(c, CH) to[c] = sum[c];
            }
        }
        if (gx) EACH(at, POS) EACH(k, WIDTH) {
            int p = at - k + WIDTH / 2;
            if (p < 0 || p >= POS) continue;
            EACH(c, CH) {
                vf sum = gx[c][at];
                UNROLL EACH(o, CH) sum += splat(w[o * CH * WIDTH + k * CH + c]) * a[o][p];
                gx[c][at] = sum;
            }
        }
        break;
    case LINEAR:
        if (gw) EACH(p, POS) EACH(q, POS) {
            vf sum = gw[p * POS + q];
            UNROLL EACH(c, CH) sum += g[c][p] * x[c][q];
            gw[p * POS + q] = sum;
        }
        if (gx) EACH(q, POS) {
            vf sum[CH];
            UNROLL EACH(c, CH) sum[c] = gx[c][q];
            EACH(p, POS) {
                vf weight = splat(w[p * POS + q]);
                UNROLL EACH(c, CH) sum[c] += weight * g[c][p];
            }
            UNROLL EACH(c, CH) gx[c][q] = sum[c];
        }
        break;
    default: {
        const float *up = w + HIDDEN * FLAT + HIDDEN;
        const vf *in = &x[0][0], *out = &g[0][0], *hidden = keep->first;
        vf back[HIDDEN];
        EACH(j, HIDDEN) back[j] = splat(0.0f);
        EACH(k, FLAT) UNROLL EACH(j, HIDDEN) back[j] += splat(up[k * HIDDEN + j]) * out[k];
        EACH(j, HIDDEN) back[j] = positive(back[j], hidden[j]);
        if (gw) {
            vf *to = gw + HIDDEN * FLAT;
            EACH(j, HIDDEN) EACH(k, FLAT) gw[j * FLAT + k] += back[j] * in[k];
            EACH(j, HIDDEN) to[j] += back[j];
            EACH(k, FLAT) UNROLL EACH(j, HIDDEN) to[HIDDEN + k * HIDDEN + j] += out[k] * hidden[j];
        }
        if (gx) EACH(k, FLAT) UNROLL EACH(j, HIDDEN)(&gx[0][0])[k] += splat(w[j * FLAT + k]) * back[j];
    }
    }
}

static const int SIZES[] = {2 * CH, BLOCK + CH * CH, CH * CH * WIDTH + CH, POS * POS, MODULE};

#endif

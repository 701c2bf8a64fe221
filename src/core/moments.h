/* Mean and standard deviation of numbers that come one by one, over the whole range of doubles. */
#ifndef NF_CORE_MOMENTS_H
#define NF_CORE_MOMENTS_H

/* All zero at first. */
typedef struct nf_moments {
    double count, mean;
    double square;       /* sum of squared deviations; those whose square would leave the range of numbers apart, */
    double large, small; /* scaled by 2^-1200 and 2^1200 */
} nf_moments;

void nf_moments_add(nf_moments *moments, double x);
/* Of the population; 0 for no numbers, infinite when it is not a double. */
double nf_moments_sd(const nf_moments *moments);

#endif

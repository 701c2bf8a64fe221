/* Mean and standard deviation that come one by one, against sums of long double. */
#include <math.h>

#include "core/moments.h"
#include "support.h"

static void check(const double *x, size_t count, double scale) {
    nf_moments m = {0};
    double mean = 0, square = 0;
    for (size_t i = 0; i < count; i++)
        mean += x[i] / (double)count;
    for (size_t i = 0; i < count; i++)
        square += (x[i] - mean) * (x[i] - mean) / (double)count;
    for (size_t i = 0; i < count; i++)
        nf_moments_add(&m, x[i] * scale);
    ck_assert_double_eq_tol(m.mean / scale, mean, 1e-13 * (fabs(mean) + sqrt(square)));
    ck_assert_double_eq_tol(nf_moments_sd(&m) / scale, sqrt(square), 1e-13 * sqrt(square));
}

START_TEST(any_scale_is_measured) {
    random_source random = random_begin(3);
    double x[200];
    for (size_t i = 0; i < 200; i++)
        x[i] = 0.3 + random_normal(&random);
    for (int power = -1000; power <= 1000; power += 25)
        check(x, 200, ldexp(1.0, power));
}
END_TEST

START_TEST(sizes_may_be_mixed) {
    const double x[] = {1e-200, 3e160, -2e160, 1.0, 5e149};
    nf_moments m = {0};
    for (size_t i = 0; i < 5; i++)
        nf_moments_add(&m, x[i]);
    ck_assert_double_eq_tol(m.mean / 2e159, 1.0, 1e-9); /* of 5e149 */
    /* deviations in 1e160: -0.2, 2.8, -2.2, -0.2, -0.2 */
    ck_assert_double_eq_tol(nf_moments_sd(&m) / 1e160, sqrt((3 * 0.04 + 7.84 + 4.84) / 5), 1e-9);
    m = (nf_moments){0};
    for (size_t i = 0; i < 4; i++)
        nf_moments_add(&m, i % 2 ? 1e-140 : -1e-140);
    nf_moments_add(&m, 1e-160);
    ck_assert_double_eq_tol(nf_moments_sd(&m) / 1e-140, sqrt(0.8), 1e-13);
}
END_TEST

START_TEST(nothing_and_equal_numbers_have_none) {
    nf_moments m = {0};
    ck_assert(nf_moments_sd(&m) == 0.0);
    for (size_t i = 0; i < 3; i++)
        nf_moments_add(&m, 7e300);
    ck_assert(m.mean == 7e300 && nf_moments_sd(&m) == 0.0);
    nf_moments_add(&m, -1.7e308);
    nf_moments_add(&m, 1.7e308);
    ck_assert(!isnan(nf_moments_sd(&m)));
}
END_TEST

int main(void) {
    TCase *tcase = tcase_create("moments");
    tcase_add_test(tcase, any_scale_is_measured);
    tcase_add_test(tcase, sizes_may_be_mixed);
    tcase_add_test(tcase, nothing_and_equal_numbers_have_none);
    Suite *suite = suite_create("moments");
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}

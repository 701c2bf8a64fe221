#include "engine/kernels/vmath.h"

const struct vm_bounds R(vm_bounds) = {.zero = 0,
                                       .one = 1,
                                       .minus_one = -1,
                                       .exp = VM_EXP_EDGE,
                                       .lifted = VM_LIFTED_EDGE,
                                       .tanh = VM_TANH_EDGE,
                                       .minus_tanh = -VM_TANH_EDGE,
                                       .gelu = VM_GELU_EDGE};

/*
 * nflow.hpp - libnflow for C++17: owning, move-only handles, exceptions with the status, views of contiguous numbers, builders
 * of configs
 *
 *     nflow::flow flow(nflow::realnvp_config(2).couplings(6).seed(1));
 *     auto more = [](const nf_fit_progress &p) { return p.epoch < 40; };
 *     nf_fit_report report = flow.fit(x, nflow::fit_config().epochs(50).progress(more));
 *     nf_rng rng{1, 0, 0};
 *     nflow::draws s = flow.sample(rng, 1000);
 *     flow.save("model.safetensors");
 *
 * What a call means is said in nflow.h. Arrays are views: a std::vector, std::array, an array, or a pointer and a size; rows x
 * dim numbers in row-major order, nothing is copied. An empty view is NULL. Sizes are checked; the rows of a call follow from
 * them. Calls that return vectors have a sibling that writes into views of the caller's; a view that is left empty is a result
 * that is not wanted.
 *
 * Failures throw nflow::error, with the status and the line of nf_last_error. After NF_ERR_ROWS the results in the caller's
 * views are there, with NaN in the bad rows. A callback that throws ends the call, which throws the same exception. Everything
 * is inline; what is in this header is no part of the library's ABI. MIT licence.
 */
#ifndef NFLOW_HPP
#define NFLOW_HPP

#include <nflow.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace nflow {

class error : public std::runtime_error {
  public:
    error(nf_status status, const std::string &message) : std::runtime_error(message), status_(status) {}
    nf_status status() const noexcept { return status_; }

  private:
    nf_status status_;
};

/* A fit that failed, and its report as C left it: of one that diverged, how far it came. */
template <class Report> class failed_fit : public error {
  public:
    failed_fit(nf_status status, const std::string &message, const Report &report) : error(status, message), report_(report) {}
    const Report &report() const noexcept { return report_; }

  private:
    Report report_;
};
using fit_error = failed_fit<nf_fit_report>;
using reverse_kl_error = failed_fit<nf_reverse_kl_report>;

/* NF_STOPPED is no failure: a callback asked for it. */
inline void check(nf_status status) {
    if (status != NF_OK && status != NF_STOPPED)
        throw error(status, nf_last_error());
}

inline const char *version() noexcept { return nf_version(); }

/* `size` numbers in a row that somebody else owns. */
template <class T> class view {
  public:
    constexpr view() noexcept = default;
    constexpr view(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    view(std::nullptr_t, std::size_t) = delete; /* or {0, 0}, meant as two numbers, would be an empty view */
    template <std::size_t n> constexpr view(T (&array)[n]) noexcept : data_(array), size_(n) {}
    template <class C, class = std::enable_if_t<std::is_convertible_v<decltype(std::declval<C &>().data()), T *>>>
    constexpr view(C &&container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const noexcept { return size_ ? data_ : nullptr; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T &operator[](std::size_t i) const noexcept { return data_[i]; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};

using numbers = view<const double>;
using results = view<double>;

/* ---- Configs: each member has a setter of its name; what is not set takes the default. false would be the number 0, which is the default
 * of all: setters that can switch something off take it for that, and true for the default. */

namespace detail {
/* For a setter of bools alone, beside one of numbers that any other would convert to. */
template <class T> using only_bool = std::enable_if_t<std::is_same_v<T, bool>, int>;
} // namespace detail

template <class Struct, class Self> class config_of {
  public:
    config_of() { it_.struct_size = sizeof it_; }
    const Struct *get() const noexcept { return &it_; }
    Self &allocator(const nf_allocator *value) { return set(&Struct::allocator, value); }

  protected:
    template <class T> Self &set(T Struct::*member, T value) {
        it_.*member = value;
        return static_cast<Self &>(*this);
    }
    Struct it_{};
};

/* Members that planar, radial, Real NVP and continuous flows have in common. */
template <class Struct, class Self> class family_config : public config_of<Struct, Self> {
  public:
    explicit family_config(std::size_t dim) { this->it_.dim = dim; }
    Self &context_dim(std::size_t value) { return this->set(&Struct::context_dim, value); }
    Self &seed(std::uint64_t value) { return this->set(&Struct::seed, value); }
    Self &precision(nf_precision value) { return this->set(&Struct::precision, value); }
    Self &activation(nf_activation value) { return this->set(&Struct::activation, value); }
    Self &hidden_layers(std::size_t value) { return this->set(&Struct::hidden_layers, value); }
    template <class T, detail::only_bool<T> = 0> Self &hidden_layers(T value) {
        return hidden_layers(value ? std::size_t{0} : NF_NONE);
    }
    Self &hidden_width(std::size_t value) { return this->set(&Struct::hidden_width, value); }
};

class planar_config : public family_config<nf_planar_config, planar_config> {
  public:
    using family_config::family_config;
    planar_config &layers(std::size_t value) { return set(&nf_planar_config::layers, value); }
};

class radial_config : public family_config<nf_radial_config, radial_config> {
  public:
    using family_config::family_config;
    radial_config &layers(std::size_t value) { return set(&nf_radial_config::layers, value); }
};

class realnvp_config : public family_config<nf_realnvp_config, realnvp_config> {
  public:
    using family_config::family_config;
    realnvp_config &couplings(std::size_t value) { return set(&nf_realnvp_config::couplings, value); }
    realnvp_config &scale(nf_scale value) { return set(&nf_realnvp_config::scale, value); }
    realnvp_config &mask(nf_mask value) { return set(&nf_realnvp_config::mask, value); }
    realnvp_config &scale_clamp(double value) { return set(&nf_realnvp_config::scale_clamp, value); }
    realnvp_config &actnorm(int value) { return set(&nf_realnvp_config::actnorm, value); }
    /* false: none; 0 is one at the data end */
    template <class T, detail::only_bool<T> = 0> realnvp_config &actnorm(T value) { return actnorm(value ? 1 : -1); }
};

class cnf_config : public family_config<nf_cnf_config, cnf_config> {
  public:
    using family_config::family_config;
    cnf_config &dynamics(nf_dynamics value) { return set(&nf_cnf_config::dynamics, value); }
    cnf_config &method(nf_ode_method value) { return set(&nf_cnf_config::method, value); }
    cnf_config &units(std::size_t value) { return set(&nf_cnf_config::units, value); }
    cnf_config &t0(double value) { return set(&nf_cnf_config::t0, value); }
    cnf_config &t1(double value) { return set(&nf_cnf_config::t1, value); }
    cnf_config &rtol(double value) { return set(&nf_cnf_config::rtol, value); }
    cnf_config &atol(double value) { return set(&nf_cnf_config::atol, value); }
    cnf_config &steps(std::size_t value) { return set(&nf_cnf_config::steps, value); }
    cnf_config &max_steps(std::size_t value) { return set(&nf_cnf_config::max_steps, value); }
    cnf_config &trace(nf_trace value) { return set(&nf_cnf_config::trace, value); }
    cnf_config &gradient(nf_ode_gradient value) { return set(&nf_cnf_config::gradient, value); }
    cnf_config &probes(std::size_t value) { return set(&nf_cnf_config::probes, value); }
    cnf_config &kinetic(double value) { return set(&nf_cnf_config::kinetic, value); }
    cnf_config &jacobian(double value) { return set(&nf_cnf_config::jacobian, value); }
    cnf_config &shared_step(int value) { return set(&nf_cnf_config::shared_step, value); }
};

class mlp_config : public config_of<nf_mlp_config, mlp_config> {
  public:
    mlp_config(std::size_t inputs, std::size_t outputs) {
        set(&nf_mlp_config::inputs, inputs);
        set(&nf_mlp_config::outputs, outputs);
    }
    mlp_config &seed(std::uint64_t value) { return set(&nf_mlp_config::seed, value); }
    mlp_config &precision(nf_precision value) { return set(&nf_mlp_config::precision, value); }
    mlp_config &activation(nf_activation value) { return set(&nf_mlp_config::activation, value); }
    mlp_config &hidden_layers(std::size_t value) { return set(&nf_mlp_config::hidden_layers, value); }
    template <class T, detail::only_bool<T> = 0> mlp_config &hidden_layers(T value) {
        return hidden_layers(value ? std::size_t{0} : NF_NONE);
    }
    mlp_config &hidden_width(std::size_t value) { return set(&nf_mlp_config::hidden_width, value); }
    mlp_config &output_scale(double value) { return set(&nf_mlp_config::output_scale, value); }
};

class optimizer_config : public config_of<nf_optimizer_config, optimizer_config> {
  public:
    optimizer_config &kind(nf_optimizer_kind value) { return set(&nf_optimizer_config::kind, value); }
    optimizer_config &learning_rate(double value) { return set(&nf_optimizer_config::learning_rate, value); }
    optimizer_config &beta1(double value) { return set(&nf_optimizer_config::beta1, value); }
    optimizer_config &beta2(double value) { return set(&nf_optimizer_config::beta2, value); }
    optimizer_config &epsilon(double value) { return set(&nf_optimizer_config::epsilon, value); }
    optimizer_config &weight_decay(double value) { return set(&nf_optimizer_config::weight_decay, value); }
    optimizer_config &momentum(double value) { return set(&nf_optimizer_config::momentum, value); }
    optimizer_config &clip_norm(double value) { return set(&nf_optimizer_config::clip_norm, value); }
};

class ode_config : public config_of<nf_ode_config, ode_config> {
  public:
    ode_config &method(nf_ode_method value) { return set(&nf_ode_config::method, value); }
    ode_config &rtol(double value) { return set(&nf_ode_config::rtol, value); }
    ode_config &atol(double value) { return set(&nf_ode_config::atol, value); }
    ode_config &steps(std::size_t value) { return set(&nf_ode_config::steps, value); }
    ode_config &max_steps(std::size_t value) { return set(&nf_ode_config::max_steps, value); }
};

namespace detail {

/* A callback of one call and what it threw. C sees a status (or anything but 0) instead of the exception. */
template <class F> struct guarded {
    F &function;
    std::exception_ptr thrown{};

    template <class... A> auto call(A &&...arguments) { return function(std::forward<A>(arguments)...); }
    template <class Body> int run(Body &&body) noexcept {
        try {
            return body();
        } catch (...) {
            thrown = std::current_exception();
            return NF_ERR_ARGUMENT;
        }
    }
    void check(nf_status status) {
        if (thrown)
            std::rethrow_exception(thrown);
        nflow::check(status);
    }
    template <class Report> void check(nf_status status, const Report &report) {
        if (thrown)
            std::rethrow_exception(thrown);
        if (status != NF_OK && status != NF_STOPPED)
            throw failed_fit<Report>(status, nf_last_error(), report);
    }
};

/* progress(p) returns whether to go on. */
template <class Progress> int progress_of(void *user, const Progress *progress) noexcept {
    auto *self = static_cast<guarded<const std::function<bool(const Progress &)>> *>(user);
    return self->run([&] { return self->call(*progress) ? 0 : 1; });
}

/* What gives the rows of a fit, the status that it gave last, and what it threw. */
struct reader {
    nf_rows_fn function;
    void *user;
    nf_status status = NF_OK;
    std::exception_ptr thrown{};
    static nf_status evaluate(void *user, std::size_t count, const std::size_t *row, double *x, double *context) noexcept {
        auto *self = static_cast<reader *>(user);
        try {
            return self->status = self->function(self->user, count, row, x, context);
        } catch (...) {
            self->thrown = std::current_exception();
            return NF_ERR_ARGUMENT;
        }
    }
};

/* f(x, log_density, grad_x), with the rows of x in row-major order. */
template <class F> struct target {
    guarded<F> guard;
    std::size_t dim;
    static nf_status evaluate(void *user, std::size_t rows, const double *x, double *log_density, double *grad_x) noexcept {
        auto *self = static_cast<target *>(user);
        return static_cast<nf_status>(self->guard.run([&] {
            const std::size_t count = rows * self->dim;
            self->guard.call(numbers(x, count), results(log_density, rows), results(grad_x, count));
            return NF_OK;
        }));
    }
};

/* f(row, t, y, dydt), with `size` components a row. */
template <class F> struct equation {
    guarded<F> guard;
    std::size_t size;
    static nf_status evaluate(void *user, std::size_t count, const std::size_t *row, const double *t, const double *y,
                              double *dydt) noexcept {
        auto *self = static_cast<equation *>(user);
        return static_cast<nf_status>(self->guard.run([&] {
            const std::size_t numbers_of = count * self->size;
            self->guard.call(view<const std::size_t>(row, count), numbers(t, count), numbers(y, numbers_of),
                             results(dydt, numbers_of));
            return NF_OK;
        }));
    }
};

inline void expect(const char *name, std::size_t size, std::size_t expected) {
    if (size != expected)
        throw error(NF_ERR_ARGUMENT,
                    std::string(name) + " has " + std::to_string(size) + " numbers, expected " + std::to_string(expected));
}

/* A result that is wanted or not. */
inline double *wanted(const char *name, results out, std::size_t expected) {
    if (!out.empty())
        expect(name, out.size(), expected);
    return out.data();
}

/* The handle of an object that a call may do without, when there is one. What was moved from is not meant to be none. */
template <class Owner> auto optional(const char *name, const Owner *owner) {
    if (owner && !owner->get())
        throw error(NF_ERR_ARGUMENT, std::string("the ") + name + " was moved from");
    return owner ? owner->get() : nullptr;
}

/* C would take what stands before a null character for the path. */
inline const char *path(const std::string &of) {
    const std::size_t end = of.find('\0');
    if (end != std::string::npos)
        throw error(NF_ERR_ARGUMENT, "a path has a null character, after " + of.substr(0, end));
    return of.c_str();
}

/* C wants a place for the numbers of a flow without parameters, too. */
template <class T> T *place(T *data) noexcept {
    static T nothing{};
    return data ? data : &nothing;
}

template <auto release> struct deleter {
    template <class T> void operator()(T *pointer) const noexcept { release(pointer); }
};

} // namespace detail

/* What both fits can be told. The arrays that a config is given must outlive the fit. */
template <class Struct, class Progress, class Self> class training_config : public config_of<Struct, Self> {
  public:
    Self &threads(std::size_t value) { return this->set(&Struct::threads, value); }
    Self &seed(std::uint64_t value) { return this->set(&Struct::seed, value); }
    Self &optimizer(const optimizer_config &value) {
        optimizer_ = *value.get();
        with_optimizer_ = true;
        return static_cast<Self &>(*this);
    }
    Self &schedule(nf_schedule value) { return this->set(&Struct::schedule, value); }
    Self &schedule_step(std::size_t value) { return this->set(&Struct::schedule_step, value); }
    Self &schedule_factor(double value) { return this->set(&Struct::schedule_factor, value); }
    Self &ema_decay(double value) { return this->set(&Struct::ema_decay, value); }
    template <class T, detail::only_bool<T> = 0> Self &ema_decay(T value) { return ema_decay(value ? 0. : -1.); }
    Self &comm(const nf_comm *value) { return this->set(&Struct::comm, value); }
    /* Called as the fit goes on; false stops it. */
    Self &progress(std::function<bool(const Progress &)> value) {
        progress_ = std::move(value);
        return static_cast<Self &>(*this);
    }

  protected:
    nf_optimizer_config optimizer_{};
    bool with_optimizer_ = false;
    std::function<bool(const Progress &)> progress_;
};

class fit_config : public training_config<nf_fit_config, nf_fit_progress, fit_config> {
  public:
    fit_config &epochs(std::size_t value) { return set(&nf_fit_config::epochs, value); }
    fit_config &batch_size(std::size_t value) { return set(&nf_fit_config::batch_size, value); }
    fit_config &patience(std::size_t value) { return set(&nf_fit_config::patience, value); }
    template <class T, detail::only_bool<T> = 0> fit_config &patience(T value) {
        return patience(value ? std::size_t{0} : NF_NONE);
    }
    fit_config &objective(nf_objective value) { return set(&nf_fit_config::objective, value); }
    fit_config &validation_fraction(double value) { return set(&nf_fit_config::validation_fraction, value); }
    template <class T, detail::only_bool<T> = 0> fit_config &validation_fraction(T value) {
        return validation_fraction(value ? 0. : -1.);
    }
    fit_config &validation(numbers x, numbers context = {}, numbers weight = {}) {
        validation_x_ = x;
        validation_context_ = context;
        validation_weight_ = weight;
        return *this;
    }
    fit_config &weight(numbers value) {
        weight_ = value;
        return *this;
    }
    fit_config &noise(double value) { return set(&nf_fit_config::noise, value); }
    template <class T, detail::only_bool<T> = 0> fit_config &noise(T value) { return noise(value ? 0. : -1.); }
    fit_config &contamination(double value) { return set(&nf_fit_config::contamination, value); }
    template <class T, detail::only_bool<T> = 0> fit_config &contamination(T value) { return contamination(value ? 0. : -1.); }
    fit_config &training_tolerance(double value) { return set(&nf_fit_config::training_tolerance, value); }
    template <class T, detail::only_bool<T> = 0> fit_config &training_tolerance(T value) {
        return training_tolerance(value ? 0. : -1.);
    }
    fit_config &standardize(int value) { return set(&nf_fit_config::standardize, value); }
    /* 0 is the default, which does */
    template <class T, detail::only_bool<T> = 0> fit_config &standardize(T value) { return standardize(value ? 0 : -1); }
    fit_config &pairing(nf_pairing value) { return set(&nf_fit_config::pairing, value); }
    fit_config &checkpoint(std::string path) {
        checkpoint_ = std::move(path);
        with_checkpoint_ = true;
        return *this;
    }
    fit_config &checkpoint_every(std::size_t value) { return set(&nf_fit_config::checkpoint_every, value); }
    /* So many rows by callback; fit is then given an empty x and context. */
    fit_config &read(std::size_t rows, nf_rows_fn function, void *user) {
        read_rows_ = rows;
        set(&nf_fit_config::read_user, user);
        return set(&nf_fit_config::read, function);
    }

  private:
    friend class flow;
    std::size_t read_rows_ = 0;
    numbers validation_x_, validation_context_, validation_weight_, weight_;
    std::string checkpoint_;
    bool with_checkpoint_ = false;
};

class reverse_kl_config : public training_config<nf_reverse_kl_config, nf_reverse_kl_progress, reverse_kl_config> {
  public:
    reverse_kl_config &steps(std::size_t value) { return set(&nf_reverse_kl_config::steps, value); }
    reverse_kl_config &samples(std::size_t value) { return set(&nf_reverse_kl_config::samples, value); }
    reverse_kl_config &beta_start(double value) { return set(&nf_reverse_kl_config::beta_start, value); }
    reverse_kl_config &anneal_steps(std::size_t value) { return set(&nf_reverse_kl_config::anneal_steps, value); }
    reverse_kl_config &evaluation_samples(std::size_t value) { return set(&nf_reverse_kl_config::evaluation_samples, value); }
    template <class T, detail::only_bool<T> = 0> reverse_kl_config &evaluation_samples(T value) {
        return evaluation_samples(value ? std::size_t{0} : NF_NONE);
    }
    reverse_kl_config &context(numbers value) {
        context_ = value;
        return *this;
    }
    reverse_kl_config &progress_every(std::size_t value) { return set(&nf_reverse_kl_config::progress_every, value); }

  private:
    friend class flow;
    numbers context_;
};

/* A target is an argument of flow::diagnose. */
class diagnose_config : public config_of<nf_diagnose_config, diagnose_config> {
  public:
    diagnose_config &rows(std::size_t value) { return set(&nf_diagnose_config::rows, value); }
    diagnose_config &exact_rows(std::size_t value) { return set(&nf_diagnose_config::exact_rows, value); }
    diagnose_config &samples(std::size_t value) { return set(&nf_diagnose_config::samples, value); }
    diagnose_config &permutations(std::size_t value) { return set(&nf_diagnose_config::permutations, value); }
    diagnose_config &threads(std::size_t value) { return set(&nf_diagnose_config::threads, value); }
    diagnose_config &seed(std::uint64_t value) { return set(&nf_diagnose_config::seed, value); }
    diagnose_config &significance(double value) { return set(&nf_diagnose_config::significance, value); }
    diagnose_config &least_effective_sample_size(double value) {
        return set(&nf_diagnose_config::least_effective_sample_size, value);
    }
    diagnose_config &most_weight(double value) { return set(&nf_diagnose_config::most_weight, value); }
};

/* ---- Handles */

class flow;
class workspace;
class gradient;

/* A net beside a flow. */
class mlp {
  public:
    explicit mlp(const mlp_config &config) : inputs_(config.get()->inputs), outputs_(config.get()->outputs) {
        nf_mlp *made;
        check(nf_mlp_create(config.get(), &made));
        handle_.reset(made);
    }
    nf_mlp *get() const noexcept { return handle_.get(); }
    std::size_t inputs() const noexcept { return inputs_; }
    std::size_t outputs() const noexcept { return outputs_; }
    std::size_t parameter_count() const noexcept { return nf_mlp_parameter_count(get()); }
    std::vector<double> parameters() const {
        std::vector<double> out(parameter_count());
        check(nf_mlp_get_parameters(get(), out.data()));
        return out;
    }
    void set_parameters(numbers in) {
        detail::expect("parameters", in.size(), parameter_count());
        check(nf_mlp_set_parameters(get(), in.data()));
    }
    inline std::vector<double> forward(numbers x, workspace *ws = nullptr) const;
    inline void forward(numbers x, results y, workspace *ws = nullptr) const;
    inline void vjp(numbers x, numbers grad_y, results grad_x, gradient *grad, workspace *ws = nullptr) const;

  private:
    std::size_t rows(numbers x) const {
        if (x.size() % inputs_)
            throw error(NF_ERR_ARGUMENT,
                        "x has " + std::to_string(x.size()) + " numbers, no multiple of " + std::to_string(inputs_));
        return x.size() / inputs_;
    }
    std::unique_ptr<nf_mlp, detail::deleter<nf_mlp_free>> handle_;
    std::size_t inputs_, outputs_;
};

class workspace {
  public:
    inline explicit workspace(const flow &of, std::size_t threads = 1);
    explicit workspace(const mlp &of) {
        nf_workspace *made;
        check(nf_mlp_workspace_create(of.get(), &made));
        handle_.reset(made);
    }
    nf_workspace *get() const noexcept { return handle_.get(); }
    nf_stats stats() const {
        nf_stats stats{};
        stats.struct_size = sizeof stats;
        check(nf_workspace_stats(get(), &stats));
        return stats;
    }

  private:
    std::unique_ptr<nf_workspace, detail::deleter<nf_workspace_free>> handle_;
};

class gradient {
  public:
    inline explicit gradient(const flow &of);
    explicit gradient(const mlp &of) : count_(of.parameter_count()) {
        nf_gradient *made;
        check(nf_mlp_gradient_create(of.get(), &made));
        handle_.reset(made);
    }
    nf_gradient *get() const noexcept { return handle_.get(); }
    void zero() { check(nf_gradient_zero(get())); }
    std::vector<double> values() const {
        std::vector<double> out(count_);
        check(nf_gradient_get(get(), detail::place(out.data())));
        return out;
    }
    void set_values(numbers in) {
        detail::expect("values", in.size(), count_);
        check(nf_gradient_set(get(), detail::place(in.data())));
    }

  private:
    std::unique_ptr<nf_gradient, detail::deleter<nf_gradient_free>> handle_;
    std::size_t count_;
};

class optimizer {
  public:
    inline explicit optimizer(const flow &of, const optimizer_config &config = {});
    explicit optimizer(const mlp &of, const optimizer_config &config = {}) {
        nf_optimizer *made;
        check(nf_mlp_optimizer_create(of.get(), config.get(), &made));
        handle_.reset(made);
    }
    nf_optimizer *get() const noexcept { return handle_.get(); }
    inline void step(flow &of, const gradient &by);
    void step(mlp &of, const gradient &by) { check(nf_mlp_step(get(), of.get(), by.get())); }
    void set_learning_rate(double rate) { check(nf_optimizer_set_learning_rate(get(), rate)); }

  private:
    std::unique_ptr<nf_optimizer, detail::deleter<nf_optimizer_free>> handle_;
};

/* Where a map takes rows, and its log_det. */
struct mapped {
    std::vector<double> values, log_det;
};

struct draws {
    std::vector<double> x, log_prob;
};

struct scores {
    std::vector<double> log_prob, score;
};

struct tensor {
    std::string name;
    std::vector<std::size_t> shape;
    std::size_t offset, size; /* in the parameter vector */
};

class flow {
  public:
    /* Takes over a handle of C. */
    explicit flow(nf_flow *handle) noexcept : handle_(handle) {}
    explicit flow(const planar_config &config) : flow(made(nf_planar_create, config.get())) {}
    explicit flow(const radial_config &config) : flow(made(nf_radial_create, config.get())) {}
    explicit flow(const realnvp_config &config) : flow(made(nf_realnvp_create, config.get())) {}
    explicit flow(const cnf_config &config) : flow(made(nf_cnf_create, config.get())) {}

    /* x[j] = z[source[j]] */
    static flow permutation(view<const std::size_t> source, nf_precision precision = NF_DOUBLE) {
        return flow(made(nf_permutation_create, source.size(), source.data(), precision));
    }
    static flow affine(std::size_t dim, nf_precision precision = NF_DOUBLE) {
        return flow(made(nf_affine_create, dim, precision));
    }
    static flow identity(std::size_t dim, std::size_t context_dim = 0, nf_precision precision = NF_DOUBLE,
                         const nf_allocator *allocator = nullptr) {
        nf_flow *handle;
        check(nf_flow_create_with(dim, context_dim, precision, &handle, allocator));
        return flow(handle);
    }
    static flow load(const std::string &path, const nf_allocator *allocator = nullptr) {
        nf_flow *handle;
        check(nf_flow_load_with(detail::path(path), &handle, allocator));
        return flow(handle);
    }
    static flow load(const void *bytes, std::size_t size, const nf_allocator *allocator = nullptr) {
        nf_flow *handle;
        check(nf_flow_load_memory_with(bytes, size, &handle, allocator));
        return flow(handle);
    }
    void save(const std::string &path) const { check(nf_flow_save(get(), detail::path(path))); }
    std::vector<unsigned char> save() const {
        void *bytes;
        std::size_t size;
        check(nf_flow_save_memory(get(), &bytes, &size));
        const std::unique_ptr<void, detail::deleter<nf_free>> owned(bytes);
        const auto *first = static_cast<const unsigned char *>(bytes);
        return std::vector<unsigned char>(first, first + size);
    }
    flow clone() const { return flow(made(nf_flow_clone, get())); }
    flow convert(nf_precision precision) const { return flow(made(nf_flow_convert, get(), precision)); }

    /* The layers of `part` move to the data end; when the call throws, part is as it was. */
    flow &append(flow &&part) {
        check(nf_flow_append(get(), part.get()));
        part.handle_.release();
        return *this;
    }
    flow &invert() {
        check(nf_flow_invert(get()));
        return *this;
    }
    void set_base_normal(numbers mean, numbers sd) {
        if (!mean.empty())
            detail::expect("mean", mean.size(), dim());
        if (!sd.empty())
            detail::expect("sd", sd.size(), dim());
        check(nf_flow_set_base_normal(get(), mean.data(), sd.data()));
    }
    void set_solver(nf_ode_method method, double rtol = 0, double atol = 0, std::size_t steps = 0, std::size_t max_steps = 0) {
        check(nf_cnf_set_solver(get(), method, rtol, atol, steps, max_steps));
    }
    void standardize(numbers x) { check(nf_affine_standardize(get(), rows("x", x), x.data())); }

    nf_flow *get() const noexcept { return handle_.get(); }
    nf_flow *release() noexcept { return handle_.release(); }
    std::size_t dim() const noexcept { return nf_flow_dim(get()); }
    std::size_t context_dim() const noexcept { return nf_flow_context_dim(get()); }
    std::size_t layer_count() const noexcept { return nf_flow_layer_count(get()); }
    nf_precision precision() const noexcept { return nf_flow_precision(get()); }
    const char *isa() const noexcept { return nf_flow_isa(get()); }

    std::size_t parameter_count() const noexcept { return nf_parameter_count(get()); }
    std::vector<double> parameters() const {
        std::vector<double> out(parameter_count());
        check(nf_get_parameters(get(), detail::place(out.data())));
        return out;
    }
    void set_parameters(numbers in) {
        detail::expect("parameters", in.size(), parameter_count());
        check(nf_set_parameters(get(), detail::place(in.data())));
    }
    std::vector<tensor> tensors() const {
        std::vector<tensor> found(nf_tensor_count(get()));
        for (std::size_t i = 0; i < found.size(); i++) {
            nf_tensor info{};
            info.struct_size = sizeof info;
            check(nf_tensor_info(get(), i, &info));
            found[i] = {info.name, {info.shape, info.shape + info.rank}, info.offset, info.shape[0] * info.shape[1]};
        }
        return found;
    }

    /* ---- evaluating */

    void forward(numbers z, numbers context, results x, results log_det = {}, workspace *ws = nullptr) const {
        map(nf_forward, "z", z, context, "x", x, log_det, ws);
    }
    mapped forward(numbers z, numbers context = {}, workspace *ws = nullptr) const {
        mapped out{std::vector<double>(z.size()), std::vector<double>(rows("z", z))};
        forward(z, context, out.values, out.log_det, ws);
        return out;
    }
    void inverse(numbers x, numbers context, results z, results log_det = {}, workspace *ws = nullptr) const {
        map(nf_inverse, "x", x, context, "z", z, log_det, ws);
    }
    mapped inverse(numbers x, numbers context = {}, workspace *ws = nullptr) const {
        mapped out{std::vector<double>(x.size()), std::vector<double>(rows("x", x))};
        inverse(x, context, out.values, out.log_det, ws);
        return out;
    }
    void log_prob(numbers x, numbers context, results log_prob, workspace *ws = nullptr) const {
        const std::size_t n = rows("x", x);
        check(nf_log_prob(get(), raw(ws), n, x.data(), conditions(context, n), detail::wanted("log_prob", log_prob, n)));
    }
    std::vector<double> log_prob(numbers x, numbers context = {}, workspace *ws = nullptr) const {
        std::vector<double> out(rows("x", x));
        log_prob(x, context, out, ws);
        return out;
    }
    /* As many rows as log_prob has numbers, or x rows. */
    void sample(nf_rng &rng, numbers context, results x, results log_prob = {}, workspace *ws = nullptr) const {
        const std::size_t n = x.empty() ? log_prob.size() : rows("x", numbers(x));
        check(nf_sample(get(), raw(ws), &rng, n, conditions(context, n), x.data(), detail::wanted("log_prob", log_prob, n)));
    }
    draws sample(nf_rng &rng, std::size_t count, numbers context = {}, workspace *ws = nullptr) const {
        draws out{std::vector<double>(count * dim()), std::vector<double>(count)};
        sample(rng, context, out.x, out.log_prob, ws);
        return out;
    }
    void score(numbers x, numbers context, results log_prob, results score, workspace *ws = nullptr) const {
        const std::size_t n = rows("x", x);
        check(nf_score(get(), raw(ws), n, x.data(), conditions(context, n), detail::wanted("log_prob", log_prob, n),
                       detail::wanted("score", score, x.size())));
    }
    scores score(numbers x, numbers context = {}, workspace *ws = nullptr) const {
        scores out{std::vector<double>(rows("x", x)), std::vector<double>(x.size())};
        score(x, context, out.log_prob, out.score, ws);
        return out;
    }
    /* times x rows x dim */
    void trajectory(numbers z, numbers t, numbers context, results path, workspace *ws = nullptr) const {
        const std::size_t n = rows("z", z);
        detail::expect("path", path.size(), t.size() * z.size());
        check(nf_cnf_trajectory(get(), raw(ws), n, z.data(), conditions(context, n), t.size(), t.data(), path.data()));
    }
    std::vector<double> trajectory(numbers z, numbers t, numbers context = {}, workspace *ws = nullptr) const {
        std::vector<double> path(t.size() * z.size());
        trajectory(z, t, context, path, ws);
        return path;
    }

    /* ---- gradients: each adds to `grad` and returns the loss; or puts it into one of the caller's, where it is after NF_ERR_ROWS
     * too, with the gradient of the good rows */

    void grad_nll(numbers x, gradient &grad, numbers context, numbers weight, double &loss, workspace *ws = nullptr) const {
        const std::size_t n = rows("x", x);
        check(nf_grad_nll(get(), raw(ws), n, x.data(), conditions(context, n), weights(weight, n), grad.get(), &loss));
    }
    double grad_nll(numbers x, gradient &grad, numbers context = {}, numbers weight = {}, workspace *ws = nullptr) const {
        double loss = 0;
        grad_nll(x, grad, context, weight, loss, ws);
        return loss;
    }
    /* f(x, log_density, grad_x) fills the log density and its gradient of the rows of x. */
    template <class F>
    void grad_reverse_kl(nf_rng &rng, std::size_t n, F &&f, gradient &grad, numbers context, double &loss,
                         workspace *ws = nullptr) const {
        using function = std::remove_reference_t<F>;
        detail::target<function> target{{f}, dim()};
        target.guard.check(nf_grad_reverse_kl(get(), raw(ws), &rng, n, conditions(context, n),
                                              detail::target<function>::evaluate, &target, grad.get(), &loss));
    }
    template <class F>
    double grad_reverse_kl(nf_rng &rng, std::size_t n, F &&f, gradient &grad, numbers context = {},
                           workspace *ws = nullptr) const {
        double loss = 0;
        grad_reverse_kl(rng, n, f, grad, context, loss, ws);
        return loss;
    }
    void grad_flow_matching(nf_rng &rng, numbers x, gradient &grad, nf_pairing pairing, numbers context, numbers weight,
                            double &loss, workspace *ws = nullptr) const {
        const std::size_t n = rows("x", x);
        check(nf_grad_flow_matching(get(), raw(ws), &rng, n, x.data(), conditions(context, n), weights(weight, n), pairing,
                                    grad.get(), &loss));
    }
    double grad_flow_matching(nf_rng &rng, numbers x, gradient &grad, nf_pairing pairing = NF_PAIRING_INDEPENDENT,
                              numbers context = {}, numbers weight = {}, workspace *ws = nullptr) const {
        double loss = 0;
        grad_flow_matching(rng, x, grad, pairing, context, weight, loss, ws);
        return loss;
    }
    /* Cotangents that are empty are zeros; outputs that are empty are not wanted; grad may be NULL. */
    void forward_vjp(numbers z, numbers context, numbers grad_x, numbers grad_log_det, results grad_z,
                     results grad_context = {}, gradient *grad = nullptr, workspace *ws = nullptr) const {
        vjp(nf_forward_vjp, "z", z, context, grad_x, grad_log_det, grad_z, grad_context, grad, ws);
    }
    void inverse_vjp(numbers x, numbers context, numbers grad_z, numbers grad_log_det, results grad_x,
                     results grad_context = {}, gradient *grad = nullptr, workspace *ws = nullptr) const {
        vjp(nf_inverse_vjp, "x", x, context, grad_z, grad_log_det, grad_x, grad_context, grad, ws);
    }

    /* ---- training. NF_ERR_ROWS is no failure of fit, which left the rows out and counts them in the report, unless there was no
     * other row to learn from. What C refuses or ends is thrown as fit_error and reverse_kl_error, with the report. */

    nf_fit_report fit(numbers x, const fit_config &config = {}) { return fit(x, {}, config); }
    nf_fit_report fit(numbers x, numbers context, const fit_config &config) {
        nf_fit_config c = *config.get();
        const bool reads = c.read && x.empty();
        const std::size_t n = reads ? config.read_rows_ : rows("x", x);
        if (reads)
            detail::expect("context beside read", context.size(), 0);
        nf_fit_report report{};
        report.struct_size = sizeof report;
        if (config.with_optimizer_)
            c.optimizer = &config.optimizer_;
        if (config.with_checkpoint_)
            c.checkpoint = detail::path(config.checkpoint_);
        c.weight = weights(config.weight_, n);
        c.validation_rows = rows("validation x", config.validation_x_);
        c.validation_x = config.validation_x_.data();
        c.validation_context = conditions(config.validation_context_, c.validation_rows);
        c.validation_weight = weights(config.validation_weight_, c.validation_rows);
        detail::guarded<const std::function<bool(const nf_fit_progress &)>> guard{config.progress_};
        if (config.progress_) {
            c.progress = detail::progress_of<nf_fit_progress>;
            c.progress_user = &guard;
        }
        detail::reader reader{c.read, c.read_user};
        if (c.read) {
            c.read = detail::reader::evaluate;
            c.read_user = &reader;
        }
        const nf_status status = nf_fit(get(), n, reads ? nullptr : x.data(), reads ? nullptr : conditions(context, n), &c, &report);
        if (reader.thrown)
            std::rethrow_exception(reader.thrown);
        const bool left_out = status == NF_ERR_ROWS && reader.status == NF_OK && report.bad_rows > 0;
        guard.check(left_out && report.steps > 0 ? NF_OK : status, report);
        return report;
    }
    template <class F> nf_reverse_kl_report fit_reverse_kl(F &&f, const reverse_kl_config &config = {}) {
        using function = std::remove_reference_t<F>;
        detail::target<function> target{{f}, dim()};
        detail::guarded<const std::function<bool(const nf_reverse_kl_progress &)>> guard{config.progress_};
        nf_reverse_kl_config c = *config.get();
        nf_reverse_kl_report report{};
        report.struct_size = sizeof report;
        if (config.with_optimizer_)
            c.optimizer = &config.optimizer_;
        c.context = conditions(config.context_, c.samples ? c.samples : 256);
        if (config.progress_) {
            c.progress = detail::progress_of<nf_reverse_kl_progress>;
            c.progress_user = &guard;
        }
        const nf_status status = nf_fit_reverse_kl(get(), detail::target<function>::evaluate, &target, &c, &report);
        if (guard.thrown)
            std::rethrow_exception(guard.thrown);
        target.guard.check(status, report);
        return report;
    }

    /* ---- diagnostics: of the flow alone, against data, and with an unnormalised log density f(x, log_density, grad_x), whose
     * gradient is not used */

    nf_diagnose_report diagnose(numbers x = {}, numbers context = {}, const diagnose_config &config = {}) const {
        return diagnosed(x, context, *config.get());
    }
    template <class F>
    nf_diagnose_report diagnose_with(F &&f, numbers x = {}, numbers context = {}, const diagnose_config &config = {}) const {
        using function = std::remove_reference_t<F>;
        detail::target<function> target{{f}, dim()};
        nf_diagnose_config c = *config.get();
        c.target = detail::target<function>::evaluate;
        c.target_user = &target;
        try {
            return diagnosed(x, context, c);
        } catch (const error &) {
            if (target.guard.thrown)
                std::rethrow_exception(target.guard.thrown);
            throw;
        }
    }

  private:
    template <class Create, class... A> static nf_flow *made(Create create, A... arguments) {
        nf_flow *handle;
        check(create(arguments..., &handle));
        return handle;
    }
    static nf_workspace *raw(const workspace *ws) { return detail::optional("workspace", ws); }

    std::size_t rows(const char *name, numbers x) const {
        const std::size_t d = dim();
        if (!d || x.size() % d)
            throw error(NF_ERR_ARGUMENT, std::string(name) + " has " + std::to_string(x.size()) + " numbers, no multiple of " +
                                             std::to_string(d));
        return x.size() / d;
    }
    const double *conditions(numbers context, std::size_t n) const {
        detail::expect("context", context.size(), n * context_dim());
        return context.data();
    }
    static const double *weights(numbers weight, std::size_t n) {
        if (!weight.empty())
            detail::expect("weight", weight.size(), n);
        return weight.data();
    }
    template <class Map>
    void map(Map call, const char *name, numbers in, numbers context, const char *out_name, results out, results log_det,
             workspace *ws) const {
        const std::size_t n = rows(name, in);
        check(call(get(), raw(ws), n, in.data(), conditions(context, n), detail::wanted(out_name, out, in.size()),
                   detail::wanted("log_det", log_det, n)));
    }
    template <class Vjp>
    void vjp(Vjp call, const char *name, numbers in, numbers context, numbers grad_out, numbers grad_log_det, results grad_in,
             results grad_context, gradient *grad, workspace *ws) const {
        const std::size_t n = rows(name, in);
        if (!grad_out.empty())
            detail::expect("the cotangent", grad_out.size(), in.size());
        check(call(get(), raw(ws), n, in.data(), conditions(context, n), grad_out.data(), weights(grad_log_det, n),
                   detail::wanted("the input's cotangent", grad_in, in.size()),
                   detail::wanted("grad_context", grad_context, context.size()), detail::optional("gradient", grad)));
    }
    nf_diagnose_report diagnosed(numbers x, numbers context, const nf_diagnose_config &config) const {
        std::size_t n = rows("x", x);
        if (x.empty() && context_dim())
            n = context.size() / context_dim();
        nf_diagnose_report report{};
        report.struct_size = sizeof report;
        check(nf_diagnose(get(), n, x.data(), conditions(context, n), &config, &report));
        return report;
    }

    std::unique_ptr<nf_flow, detail::deleter<nf_flow_free>> handle_;
};

inline workspace::workspace(const flow &of, std::size_t threads) {
    nf_workspace *made;
    check(nf_workspace_create(of.get(), threads, &made));
    handle_.reset(made);
}

inline gradient::gradient(const flow &of) : count_(of.parameter_count()) {
    nf_gradient *made;
    check(nf_gradient_create(of.get(), &made));
    handle_.reset(made);
}

inline optimizer::optimizer(const flow &of, const optimizer_config &config) {
    nf_optimizer *made;
    check(nf_optimizer_create(of.get(), config.get(), &made));
    handle_.reset(made);
}

inline void optimizer::step(flow &of, const gradient &by) { check(nf_optimizer_step(get(), of.get(), by.get())); }

inline void mlp::forward(numbers x, results y, workspace *ws) const {
    const std::size_t n = rows(x);
    detail::expect("y", y.size(), n * outputs_);
    check(nf_mlp_forward(get(), detail::optional("workspace", ws), n, x.data(), y.data()));
}

inline std::vector<double> mlp::forward(numbers x, workspace *ws) const {
    std::vector<double> y(rows(x) * outputs_);
    forward(x, y, ws);
    return y;
}

/* grad_x empty or grad NULL: not wanted. */
inline void mlp::vjp(numbers x, numbers grad_y, results grad_x, gradient *grad, workspace *ws) const {
    const std::size_t n = rows(x);
    detail::expect("grad_y", grad_y.size(), n * outputs_);
    check(nf_mlp_vjp(get(), detail::optional("workspace", ws), n, x.data(), grad_y.data(), nullptr,
                     detail::wanted("grad_x", grad_x, x.size()), detail::optional("gradient", grad)));
}

/* From y at t0 (rows of `size` numbers) to y at t1, in place. f(row, t, y, dydt) fills the derivatives. `path`: times x rows x
 * size at the instants t. */
template <class F>
nf_stats ode_solve(F &&f, std::size_t size, double t0, double t1, results y, const ode_config &config = {}, numbers t = {},
                   results path = {}) {
    using function = std::remove_reference_t<F>;
    if (!size || y.size() % size)
        throw error(NF_ERR_ARGUMENT, "y has " + std::to_string(y.size()) + " numbers, no multiple of " + std::to_string(size));
    detail::expect("path", path.size(), t.size() * y.size());
    detail::equation<function> equation{{f}, size};
    nf_stats stats{};
    stats.struct_size = sizeof stats;
    equation.guard.check(nf_ode_solve(config.get(), y.size() / size, size, detail::equation<function>::evaluate, &equation, t0,
                                      t1, y.data(), t.size(), t.data(), path.data(), &stats));
    return stats;
}

inline std::string diagnosis_text(const nf_diagnose_report &report) {
    std::string text(nf_diagnose_text(&report, nullptr, 0), '\0');
    nf_diagnose_text(&report, text.data(), text.size() + 1);
    return text;
}

} // namespace nflow

#endif

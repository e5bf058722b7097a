// Fibers: threads that one thread of the operating system runs in turn, each until it yields.
//
// A switch takes some nanoseconds, so hundreds of them may meet at a barrier again and again. For
// ThreadSanitizer each is a thread of its own and a switch orders nothing: it sees the races that
// threads on as many processors would have.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <new>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// Puts the registers that a function leaves as they were on the stack, keeps the stack's address in
// `from`, and goes on where `to` was left.
extern "C" void cuda_on_cpu_switch(void** from, void* to);

#if defined(__x86_64__)
asm(R"(
.pushsection .text
.weak cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, . - cuda_on_cpu_switch
.popsection
)");
#elif defined(__aarch64__)
asm(R"(
.pushsection .text
.weak cuda_on_cpu_switch
.hidden cuda_on_cpu_switch
.type cuda_on_cpu_switch, %function
cuda_on_cpu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x2, sp
  str x2, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size cuda_on_cpu_switch, . - cuda_on_cpu_switch
.popsection
)");
#else
#error "no switch of stacks for this processor"
#endif

namespace cuda_on_cpu {

#if defined(__x86_64__)
constexpr int kFrameWords = 8, kReturnWord = 6;  // six registers, where to go on, one to align
#else
constexpr int kFrameWords = 20, kReturnWord = 11;
#endif

// Memory for a fiber's stack, above a page that nobody may touch; fibers take it one after another,
// and are one thread for ThreadSanitizer.
class Stack {
 public:
  static constexpr std::size_t kBytes = 1 << 18, kGuard = 1 << 16;

  Stack()
      : memory_(static_cast<char*>(mmap(nullptr, kGuard + kBytes, PROT_READ | PROT_WRITE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    if (memory_ == MAP_FAILED || mprotect(memory_, kGuard, PROT_NONE) != 0) throw std::bad_alloc();
  }
  Stack(const Stack&) = delete;
  ~Stack() {
#if defined(__SANITIZE_THREAD__)
    __tsan_destroy_fiber(thread);
#endif
    munmap(memory_, kGuard + kBytes);
  }

  char* bottom() const { return memory_ + kGuard; }
  // As if a function had been left right before it calls `entry`.
  void* left_before(void (*entry)()) const {
    void** frame = reinterpret_cast<void**>(bottom() + kBytes) - kFrameWords;
    std::fill_n(frame, kFrameWords, nullptr);
    frame[kReturnWord] = reinterpret_cast<void*>(entry);
    return frame;
  }

#if defined(__SANITIZE_THREAD__)
  void* const thread = __tsan_create_fiber(0);
#endif

 private:
  char* memory_;
};

struct Round;

struct Fiber {
  Round* round;
  int number;
  Fiber* next = nullptr;  // whose turn it is after this one's
  void* left = nullptr;   // its stack, as it was left
  void* local = nullptr;  // for whoever runs in it
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  const void* bottom = nullptr;
  std::size_t bytes = 0;
#elif defined(__SANITIZE_THREAD__)
  void* thread = nullptr;
#endif
};

// Fibers that start and end together; whoever starts them takes its turns as well.
struct Round {
  const std::function<void(int)>& work;
  Fiber starter;
  std::atomic<int> finished = 0;
  std::atomic<bool> started = false;
};

// All of them write it.
inline thread_local std::atomic<Fiber*> running = nullptr;

inline Fiber& this_fiber() { return *running.load(std::memory_order_relaxed); }

// The next one's turn. Not for the sanitizers to see: those that have ended take turns, too, until
// all have, and then are left as they are.
__attribute__((no_sanitize("address", "thread"))) inline void yield() {
  Fiber& from = this_fiber();
  Fiber& to = *from.next;
  running.store(&to, std::memory_order_relaxed);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#elif defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.thread, __tsan_switch_to_fiber_no_sync);
#endif
  cuda_on_cpu_switch(&from.left, to.left);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

inline void run_to_end(Round& round) {
  round.started.load(std::memory_order_acquire);
  round.work(this_fiber().number);
  round.finished.fetch_add(1, std::memory_order_acq_rel);
}

__attribute__((no_sanitize("address", "thread"))) inline void run_fiber() {
  Round& round = *this_fiber().round;
#if defined(__SANITIZE_ADDRESS__)
  Fiber& starter = round.starter;
  const bool is_first = starter.bottom == nullptr;
  __sanitizer_finish_switch_fiber(nullptr, is_first ? &starter.bottom : nullptr,
                                  is_first ? &starter.bytes : nullptr);
#endif
  run_to_end(round);
  while (true) yield();
}

// work(number) in a fiber for each number of `turns`, in this order and again and again, until all
// have ended.
inline void run_fibers(const std::vector<unsigned>& turns, const std::function<void(int)>& work) {
  static thread_local std::deque<Stack> stacks;
  const int count = static_cast<int>(turns.size());
  while (static_cast<int>(stacks.size()) < count) stacks.emplace_back();
  Round round{work, {&round, -1}};
  std::vector<Fiber> fibers(count);
  Fiber* before = &round.starter;
  for (const unsigned number : turns) {
    Fiber& fiber = fibers[number];
    fiber.round = &round;
    fiber.number = static_cast<int>(number);
    fiber.left = stacks[number].left_before(run_fiber);
#if defined(__SANITIZE_ADDRESS__)
    fiber.bottom = stacks[number].bottom();
    fiber.bytes = Stack::kBytes;
#elif defined(__SANITIZE_THREAD__)
    fiber.thread = stacks[number].thread;
#endif
    before->next = &fiber;
    before = &fiber;
  }
  before->next = &round.starter;
#if defined(__SANITIZE_THREAD__)
  round.starter.thread = __tsan_get_current_fiber();
#endif
  running.store(&round.starter, std::memory_order_relaxed);
  round.started.store(true, std::memory_order_release);
  while (round.finished.load(std::memory_order_acquire) < count) yield();
}

}  // namespace cuda_on_cpu

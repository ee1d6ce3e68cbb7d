#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run.py [NAME...]: breaks the library in one place at a time, in a copy, and expects the tests to notice.

Each mutant is one mistake that someone could make: an edit of some headers, and the test that has to fail. A mutant
that does not compile, or whose text is no longer there, is a failure of this list. One whose test hangs is caught, too:
the tests as they are end in seconds. Last line: 'N passed, N failed'.
"""
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
BUILD = ROOT / 'build/mutants'
SESSION = 'gather/session.hpp'
AGREEMENT = 'agreement.hpp'
PATIENCE = 240  # seconds: many times what a test takes on a busy machine

# name, test, [(header, text, its replacement), ...]
MUTANTS = [
    ('vote_skipped', 'faults', [(SESSION, '''      transport([&] { v = words_.vote(failure ? saying::failed : saying::done, current_, sums, said); });
''', '')]),
    ('leave_word_not_sent', 'faults', [(SESSION, '''        v = words_.vote(deferred_ ? saying::failed : saying::left, next_, 0, said);
''', '')]),
    ('leaving_counts_as_done', 'faults', [(AGREEMENT, 'v.all_done && s == saying::done', 'v.all_done && s != saying::failed')]),
    ('second_exchange_skipped', 'faults', [(AGREEMENT, 'if (any_failed) v.message =', 'if (false) v.message =')]),
    ('failure_not_said_in_the_opening', 'faults', [
        (AGREEMENT, 'vote_word(stage::opening, failed ? saying::failed : saying::done', 'vote_word(stage::opening, saying::done')]),
    ('digests_not_compared', 'faults', [
        (AGREEMENT, 'v.culprit >= 0 || first_different([](const vote_word& w) { return w.value; }) == 0', 'true')]),
    ('settings_not_in_the_digest', 'faults', [(AGREEMENT, '0, mix(asked, digest)', '0, digest')]),
    ('engine_of_the_plan_compared', 'errors', [(SESSION, '*plan_, unshard::capabilities_of(comm_))', '*plan_, plan_->engine())')]),
    ('chunk_of_another_rank', 'property', [('gather/rounds.hpp', 'visit(p, chunk, plan.spreads() ? h : -1)', 'visit(p, chunk, plan.spreads() ? 0 : -1)')]),
    ('shift_groups_not_agreed', 'property', [(SESSION, 'shifts_ = static_cast<std::size_t>(words_.least(shifts_));', 'static_cast<void>(words_.least(shifts_));')]),
    ('shift_groups_too_large', 'property', [('gather/rounds.hpp', 'if (sent > staging_ || written > staging_) return false;', '')]),
    ('staging_of_a_group_not_used_again', 'property', [('schedule/fill.hpp', 'used_[shared ? 0 : moved_->group_of(m)]', 'used_[0]')]),
    ('failure_behind_the_opening_not_said', 'faults', [(AGREEMENT, 'say(vote_word(stage::prepared, failed ? saying::failed : saying::done, 0, 0));', 'say(vote_word(stage::prepared, saying::done, 0, 0));')]),
    ('bisection_turns_the_wrong_way', 'faults', [(AGREEMENT, '(differs != 0 ? high : low) = middle', '(differs == 0 ? high : low) = middle')]),
    ('drain_skipped', 'faults', [(SESSION, '''    transport([&] { drain([] { return false; }); });
    buffers_.close''', '''    buffers_.close''')]),
    ('ended_forgotten', 'faults', [(SESSION, '''  void give_up() {
    ended_ = true;''', '''  void give_up() {''')]),
    ('abort_skipped', 'faults', [(SESSION, 'comm_.abort(concat("in chunk "', 'static_cast<void>(concat("in chunk "')]),
    ('written_before_the_vote', 'faults', [(SESSION, '''    tell_observer(event_kind::vote_begun, current_);
''', '''    tell_observer(event_kind::vote_begun, current_);
    if constexpr (A::writes) launch(state(current_).write_back, current_, true);
''')]),
    ('doubt_not_told', 'faults', [(SESSION, '    if (writing_) {', '    if (false) {')]),
    ('doubt_about_the_wrong_chunk', 'faults', [(SESSION, 'doubtful = committed_;', 'doubtful = committed_ + 1;')]),
    ('lists_made_after_the_vote', 'faults', [
        (SESSION, 'prepare_chunks(current_ + ahead_ + 2);', ''),
        (SESSION, '''  void launch_gathers() {
''', '''  void launch_gathers() {
    prepare_chunks(next_ + ahead_ + 1);
''')]),
    ('memory_not_given_back', 'faults', [('gather/buffers.hpp', '~slot_buffers() { release(); }', '~slot_buffers() {}')]),
    ('after_write_failure_dropped', 'faults', [(SESSION, '        deferred_ = std::current_exception();', '')]),
    ('after_write_failure_left_with_the_range', 'leaving', [(SESSION, 'deferred_ ? saying::failed : saying::left', 'saying::left')]),
    ('ended_chunk_votes_again', 'leaving', [(SESSION, '''    if (ended_)
      throw bad_options''', '''    if (false)
      throw bad_options''')]),
    ('after_write_failure_not_deferred', 'faults', [(SESSION, '        deferred_ = std::current_exception();', '        throw;')]),
    ('paint_not_looked_at', 'faults', [('gather/chunk_maker.hpp', 'if (is_paint(', 'if (false && is_paint(')]),
    ('no_deadline_for_words', 'faults', [(AGREEMENT, 'std::as_writable_bytes(std::span(words_)), timeout_ms_', 'std::as_writable_bytes(std::span(words_)), 0')]),
    ('no_deadline_for_bytes', 'faults', [(SESSION, 'u.done.wait(options_.timeout_ms)', 'u.done.wait(0)')]),
    ('mismatch_poisons', 'faults', [(SESSION, '''    } catch (const plan_mismatch&) {
      end();''', '''    } catch (const plan_mismatch& e) {
      fail(e.what());''')]),
    ('shard_length_not_checked', 'faults', [('gather/listed.hpp', 'if (shard.size() < needed)', 'if (false)')]),
    ('strided_box_taken_for_an_interval', 'schedule', [('index_space.hpp', '    if (cut && b.size[d] != 1) return -1;\n', '')]),
    ('last_chunks_runs_kept', 'gather', [('gather/chunk_maker.hpp', '    kept.front().clear();\n', '')]),
    ('tail_of_a_long_copy_lost', 'schedule', [('base/stream_copy.hpp', '''#endif
  std::memcpy(to, from, bytes);
}''', '#endif\n}')]),
    ('cyclic_short_block_to_the_wrong_rank', 'cyclic', [('shards/cyclic.hpp', 'at == length / block % parts ?', 'at == length / block % parts + 1 ?')]),
    ('cyclic_one_block_too_few', 'cyclic', [('shards/cyclic.hpp', '(at < all % parts ? 1 : 0)', '0')]),
    ('cyclic_short_block_over_the_first', 'cyclic', [('shards/cyclic.hpp', 'p.at[d] = tail ? c.whole_blocks() * c.block : 0;', 'p.at[d] = 0;')]),
    ('pitch_forgotten', 'cyclic', [('layout/pitched.hpp', '      p.array = leading_;\n', '')]),
    ('wait_returns_early', 'conformance', [('comm/threads.hpp', 'void wait(int timeout_ms) { engine_->wait(rank_, *job_, timeout_ms); }', 'void wait(int) {}')]),
    ('messages_by_length_alone_not_checked', 'conformance', [('testing/check_communicator.hpp', 'expect(threw, "8 and 24 bytes', 'expect(true, "8 and 24 bytes')]),
    ('abort_tells_nobody', 'conformance', [('comm/threads.hpp', 'void abort(std::string_view reason) noexcept { engine_->abort(rank_, reason); }', 'void abort(std::string_view) noexcept {}')]),
    ('owner_by_rank_not_by_load', 'plan_spread', [('packing/balanced.hpp', 'if (a.load != b.load) return a.load < b.load;', '')]),
    ('owner_ties_not_by_bytes', 'plan_spread', [('packing/balanced.hpp', 'a.bytes != b.bytes ? a.bytes < b.bytes : a.rank < b.rank', 'a.rank < b.rank')]),
    ('owners_in_the_callers_order', 'plan_spread', [('packing/balanced.hpp', 'a.cost != b.cost ? a.cost > b.cost : a.bytes > b.bytes', 'false')]),
    ('owners_of_equal_cost_not_by_bytes', 'plan_spread', [('packing/balanced.hpp', 'a.cost != b.cost ? a.cost > b.cost : a.bytes > b.bytes', 'a.cost > b.cost')]),
    ('group_costs_its_first', 'plan_spread', [('packing/packer.hpp', '      weight_.cost += p.cost;\n', '')]),
    ('tied_one_has_no_owner', 'plan_spread', [('packing/balanced.hpp', 'for (const tied_pair& t : ties) out.owners[t.first] = out.owners[t.second];', '')]),
    ('rounds_to_the_brim', 'plan_spread', [('packing/owner_lists.hpp', 'const std::uint64_t level = best_level(hands, most_looks / rounds);', 'const std::uint64_t level = (std::numeric_limits<std::uint64_t>::max)();')]),
    ('rounds_left_forgotten', 'plan_spread', [('packing/owner_lists.hpp', 'needs[h.least] > left', 'needs[h.least] > left + 1')]),
    ('chunks_in_order_to_the_brim', 'plan_spread', [('packing/spread.hpp', 'level_of(packed, ranks, alignment, capacity)', 'capacity')]),
    ('one_staging_for_both_ways', 'plan_spread', [('plan/refusals.hpp', 'o.on.spreads() ? 2 : 1', '1')]),
]


def compile_to(out, *args):
    command = [os.environ.get('CXX', 'g++'), '-std=c++20', '-O0', '-w', '-pthread', *args, '-o', out]
    return subprocess.run(command, capture_output=True, text=True)


def judge(mutant):
    name, test, edits = mutant
    folder = BUILD / name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / 'include', folder / 'include')
    for header, text, replacement in edits:
        path = folder / 'include/unshard' / header
        whole = path.read_text()
        if whole.count(text) != 1:
            return False, f'its text is {whole.count(text)} times in {header}'
        path.write_text(whole.replace(text, replacement))
    program = folder / test
    built = compile_to(program, '-I', folder / 'include', ROOT / f'tests/{test}.cpp', BUILD / 'main.o')
    if built.returncode != 0:
        return False, 'does not compile: ' + next((l for l in built.stderr.splitlines() if 'error' in l), '')
    try:
        ran = subprocess.run([program, '--abort-after=1'], capture_output=True, text=True, timeout=PATIENCE,
                             env={**os.environ, 'UNSHARD_FAULTS': '7', 'UNSHARD_FAULTS_PATIENCE': '5', 'UNSHARD_CASES': '2000'})
    except subprocess.TimeoutExpired:
        return True, f'HANG: its test had not ended after {PATIENCE} s'
    shutil.rmtree(folder)
    if ran.returncode == 0:
        return False, 'SURVIVED'
    told = [l.strip() for l in (ran.stdout + ran.stderr).splitlines() if 'logged:' in l or 'HANG' in l or 'SIG' in l or 'ERROR' in l]
    return True, (told[0] if told else f'exit {ran.returncode}')[:200]


def main():
    BUILD.mkdir(parents=True, exist_ok=True)
    chosen = [m for m in MUTANTS if not sys.argv[1:] or m[0] in sys.argv[1:]]
    compile_to(BUILD / 'main.o', '-c', ROOT / 'tests/main.cpp')
    passed = 0
    with concurrent.futures.ThreadPoolExecutor(int(os.environ.get('JOBS', os.cpu_count()))) as pool:
        for mutant, (caught, how) in zip(chosen, pool.map(judge, chosen)):
            passed += caught
            print(f'{"caught" if caught else "NOT CAUGHT"}: {mutant[0]}: {how}', flush=True)
    print(f'{passed} passed, {len(chosen) - passed} failed')
    return passed != len(chosen)


sys.exit(main())

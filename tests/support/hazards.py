"""Which test guards which hazard: every row of the bug history B1–B27, and every hazard of the design, 1–30.

A guard is ``folder/test_file.py::test_name`` below ``tests/unit``, or ``lane:<name>``, or
``lane:<name>/<case>``. ``tests/unit/hazards`` checks that each of them exists; a row without a
guard must say why in ``OPEN``.
"""

from __future__ import annotations

from typing import Final

HAZARDS: Final[dict[str, tuple[str, ...]]] = {
    # what happened to others
    "B1 LTX unreadable after a restart of the machine": (
        "lane:crashstates",
        "lane:powercut",
        "store/test_restart.py::test_killed_while_cutting_nothing_is_lost_or_doubled",
    ),
    "B2 crash between LTX commit and SQLite's commit": (
        "store/test_restart.py::test_killed_after_any_append_the_chain_is_whole",
        "hazards/test_hazard_30_a_dead_replicator.py::test_a_kill_between_two_steps_neither_loses_nor_repeats_a_transaction",
        "lane:kills",
    ),
    "B3 SQLite rewrites frames of a transaction at its end": (
        "hazards/test_hazard_10_frames_rewritten_after_a_spill.py::test_a_transaction_that_rewrote_its_own_frames_is_captured_whole",
        "lane:special/transactions-larger-than-the-page-cache",
    ),
    "B4 too few locks while applying": (
        "apply/test_role_locks.py::test_programs_read_and_get_busy_for_everything_else",
        "apply/test_apply.py::test_an_open_snapshot_is_kept_during_applies_and_a_partial_write_back",
        "lane:scenes/reads-go-on-during-every-apply",
    ),
    "B5 the lock page in checksums and snapshots": (
        "hazards/test_b05_the_lock_page.py::test_what_stands_on_it_changes_no_checksum",
        "hazards/test_b05_the_lock_page.py::test_a_snapshot_leaves_it_out_and_has_its_neighbours",
        "ltx/test_encoder.py::test_pages_around_the_lock_page_are_written",
        "lane:special/across-the-lock-page",
    ),
    "B6 partial checkpoints and VACUUM broke the checksum": (
        "hazards/test_hazard_09_raw_capture_of_a_wal_database.py::test_a_partial_checkpoint_does_not_roll_the_image_back",
        "capture/test_rollback.py::test_a_vacuum_shrinks_the_image",
        "lane:special/every-kind-of-checkpoint",
        "lane:special/vacuum-shrinks",
    ),
    "B7 EXCLUSIVE locking in WAL mode": (
        "capture/test_wal_contents.py::test_exclusive_locking_keeps_its_index_to_itself_and_is_captured_all_the_same",
        "lane:special/exclusive-locking-mode",
    ),
    "B8 deadlocks between invalidation, close and release": (
        "mounted/test_sqlite.py::test_a_parked_request_does_not_stop_others",
        "lane:kills",
        "lane:multiproc",
    ),
    "B9 mount and data in one folder": (
        "supervisor/test_preflight.py::test_a_data_directory_that_leads_into_the_mount_by_a_link_is_refused",
        "lane:badinput/data-directory-and-mount-point-overlap",
    ),
    "B10 a node that streams from itself": ("replication/test_lineage.py::test_a_node_never_streams_from_itself",),
    "B11 an unreplicated tail lost on rejoin": (
        "mounted/test_switching.py::test_what_only_the_old_primary_has_goes_to_lost_and_found",
        "cli/test_lost.py::test_a_tail_with_its_snapshot_becomes_a_database",
        "lane:badinput/a-replica-ahead-of-the-primary",
    ),
    "B12 lineages diverge": (
        "replicator/test_epochs.py::test_a_primary_refuses_replicas_that_know_a_newer_epoch",
        "lane:badinput/a-replica-diverged-from-the-primary",
        "lane:badinput/a-peer-of-another-cluster",
    ),
    "B13 a program before its data is restored": (
        "mounted/test_roles.py::test_an_open_waits_until_the_role_locks_are_held",
        "mounted/test_switching.py::test_probes_tell_a_replica_from_a_node_without_primary",
        "lane:kube_life",
    ),
    "B14 written while the sidecar was away": (
        "hazards/test_b14_written_behind_our_back.py::test_what_sqlite_wrote_is_told_and_becomes_one_transaction",
        "hazards/test_b14_written_behind_our_back.py::test_a_changed_byte_is_no_transaction",
        "lane:badinput/a-database-changed-behind-our-back",
    ),
    "B15 growth pages missing from an increment": (
        "hazards/test_b15_growth_pages.py::test_the_store_takes_none_that_lacks_a_page",
        "hazards/test_b15_growth_pages.py::test_files_that_lack_pages_are_not_joined",
    ),
    "B16 a restore that does not carry the position": (
        "capture/test_importing.py::test_a_database_is_replaced_while_a_program_stays_connected",
        "lane:scenes/import-replaces-as-one-transaction-while-open",
    ),
    "B17 a restored database that is no sound database": (
        "hazards/test_b17_what_is_restored_is_sound.py::test_rows_and_indexes_are_those_of_the_primary",
    ),
    "B18 a checkpoint that blocks all writers": (
        "replicator/test_checkpointing.py::test_while_the_end_is_written_back_a_reader_waits_and_gets_no_error",
        "lane:scenes/programs-own-checkpoints-of-every-mode-run-beside-ours",
        "apply/test_apply.py::test_overlapping_readers_do_not_keep_the_log_from_starting_over",
        "mounted/test_sqlite.py::test_a_parked_restart_goes_on_when_capture_has_caught_up",
    ),
    "B19 files that others do not read": (
        "lane:interop",
        "ltx/test_decoder.py::test_a_file_without_database_checksums_is_read",
    ),
    "B20 SQLite's WAL-reset bug": (
        "replicator/test_checkpointing.py::test_a_log_that_was_started_over_between_two_looks_is_not_written_back",
        "apply/test_role_locks.py::test_a_restart_that_was_cut_off_leaves_no_frames_counted_as_backfilled",
        "lane:special/many-small-wal-restarts",
        "hazards/test_b20_old_sqlite.py::test_versions_with_the_bug_and_the_withdrawn_one_are_told",
        "hazards/test_b20_old_sqlite.py::test_the_version_comes_from_what_is_captured",
    ),
    "B21 rows lost by other file systems": (
        "lane:kills",
        "lane:special/every-kind-of-checkpoint",
        "lane:special/rows-of-many-megabytes",
        "lane:special/opened-and-closed-for-each-commit",
    ),
    "B22 position and data stored apart": (
        "store/test_restart.py::test_killed_between_log_and_checksums_the_sums_are_completed",
        "store/test_recovery.py::test_killed_during_recovery_it_is_simply_done_again",
    ),
    "B23 two leaders, faults in pairs": (
        "election/test_simulation.py::test_no_run_breaks_a_rule",
        "lane:election",
        "lane:nemesis",
    ),
    "B24 an isolated primary that keeps writing": (
        "mounted/test_fence.py::test_a_commit_after_the_fence_leaves_no_valid_frame",
        "election/test_rules.py::test_rule_12_a_missing_lease_is_never_made_and_writing_ends_at_the_fence",
        "lane:elected",
        "lane:kube_losses",
    ),
    "B25 a recursive delete through the mount": (
        "mounted/test_stopping.py::test_removing_the_whole_tree_while_the_node_stops_deletes_nothing",
        "lane:kube_pods",
    ),
    "B26 an operator that is a zombie": ("lane:kube_operator",),
    "B27 old files removed before the snapshot is in": (
        "apply/test_kills.py::test_a_kill_during_an_install_is_repaired",
        "store/test_recovery.py::test_an_unfinished_install_is_left_to_apply",
    ),
    # hazards of this design
    "1 captured and never published": (
        "hazards/test_hazard_01_unpublished_commits.py::test_it_is_not_captured_however_long_it_stands_there",
        "hazards/test_hazard_01_unpublished_commits.py::test_a_restart_of_the_log_does_not_bring_it_back",
    ),
    "2 EIO on a commit is no rollback": (
        "mounted/test_fence.py::test_a_commit_that_the_fence_meets_half_way_is_taken_back",
    ),
    "3 the rule for taking over": (
        "lane:election",
        "mounted/test_switching.py::test_after_a_promise_nothing_is_taken_from_the_older_epoch",
    ),
    "4 a primary behind its replicas": (
        "election/test_rules.py::test_rule_11_a_process_that_was_started_anew_takes_a_new_epoch",
        "election/test_rules.py::test_rule_9_a_candidate_behind_a_reachable_better_one_waits_a_bounded_time",
    ),
    "5 replicas show what may still be lost": (
        "lane:quorum/a-commit-that-is-not-acknowledged-fails-in-every-journal-mode",
        "lane:quorum/a-replica-that-restarts-shows-nothing-that-is-in-doubt",
    ),
    "6 a parked unlink locks the folder": ("mounted/test_sqlite.py::test_a_parked_request_does_not_stop_others",),
    "7 role locks die with the replicator": (
        "apply/test_role_locks.py::test_locks_live_in_duplicates_and_are_adopted",
        "apply/test_kills.py::test_a_kill_while_applying_is_not_seen_by_programs_and_is_repaired",
    ),
    "8 the dirty set dies with the mount": (
        "mounted/test_takeover.py::test_pages_written_before_a_kill_are_in_the_spool_after_it",
        "mount/test_dirty.py::test_another_process_finds_the_ranges",
    ),
    "9 raw capture beside a WAL": (
        "hazards/test_hazard_09_raw_capture_of_a_wal_database.py::test_raw_ranges_beside_a_wal_are_not_taken_from_the_database_file",
    ),
    "10 the last write is not always the page": (
        "hazards/test_hazard_10_frames_rewritten_after_a_spill.py::test_a_transaction_that_rewrote_its_own_frames_is_captured_whole",
        "mount/test_waltrack.py::test_writes_cut_anywhere_give_the_same_commits",
    ),
    "11 torn words in shared memory": (
        "supervisor/test_parts.py::test_a_word_that_the_supervisor_writes_is_read_by_the_others",
        "hazards/test_hazard_11_words_are_whole.py::test_another_process_never_sees_half_a_word",
    ),
    "12 a program checkpoints a replica": (
        "apply/test_role_locks.py::test_programs_read_and_get_busy_for_everything_else",
        "lane:scenes/no-checkpoint-or-mode-change-on-a-replica",
    ),
    "13 WRITE held with an invalid index": (
        "mounted/test_roles.py::test_an_open_waits_until_the_role_locks_are_held",
        "apply/test_role_locks.py::test_a_log_without_frames_is_enough_to_be_read_as_wal",
    ),
    "14 the order of taking locks": (
        "apply/test_role_locks.py::test_the_last_close_of_a_program_leaves_the_log_alone",
        "apply/test_role_locks.py::test_a_running_write_transaction_is_waited_for_and_then_given_up",
    ),
    "15 a replica's log that never starts over": (
        "apply/test_apply.py::test_overlapping_readers_do_not_keep_the_log_from_starting_over",
        "lane:scenes/a-reader-that-pins-the-wal-is-named",
    ),
    "16 modes and page sizes": (
        "hazards/test_hazard_16_modes_and_page_sizes.py::test_a_changed_page_size_is_a_snapshot_of_all_pages",
        "apply/test_apply.py::test_the_journal_mode_of_the_primary_may_change_under_open_connections",
    ),
    "17 EXCLUSIVE or idle writers at a demotion": (
        "mounted/test_switching.py::test_a_writer_that_does_not_end_is_cut_off_and_named",
    ),
    "18 a full disk and -shm": (
        "lane:badinput/disk-full-in-wal-mode",
        "mounted/test_sqlite.py::test_a_full_disk_is_told_to_the_program_before_the_reserve_is_touched",
    ),
    "19 one slow disk call stops every database": (
        "mounted/test_sqlite.py::test_a_parked_request_does_not_stop_others",
    ),
    "20 frozen between check and answer": (
        "mounted/test_fence.py::test_either_clock_counts",
        "election/test_rules.py::test_rule_1_a_suspended_machine_finds_its_fence_shut",
    ),
    "21 killed while parked": (
        "mount/test_channel.py::test_a_write_that_must_wait_keeps_its_own_bytes",
        "lane:writerkill",
    ),
    "22 groups across logs": (
        "hazards/test_hazard_22_groups_end_with_their_log.py::test_no_file_spans_a_restart_of_the_log",
    ),
    "23 an equal change counter of another history": (
        "mounted/test_switching.py::test_an_idle_connection_of_a_rollback_mode_database_does_not_trust_its_old_pages",
        "lane:badinput/an-older-database-comes-back-with-open-readers",
    ),
    "24 requests that come twice": (
        "mounted/test_takeover.py::test_a_writer_survives_kills_without_an_error",
        "lane:kills",
    ),
    "25 super-journals": (
        "mounted/test_sqlite.py::test_attached_databases_commit_together",
        "lane:special/several-files-in-one-transaction",
    ),
    "26 retention and what the local image needs": (
        "store/test_upkeep.py::test_retention_keeps_what_a_replica_and_what_the_local_image_needs",
        "replication/test_retention.py::test_the_local_image_keeps_what_it_lacks",
    ),
    "27 names that collide, cached absence": (
        "lane:scenes/subdirectories",
        "mount/test_layout.py::test_each_name_has_one_kind",
    ),
    "28 time stamps that drop the cache": ("lane:scenes/mapped-reads-see-what-is-applied",),
    "29 what a program sees on a replica": (
        "lane:scenes/a-write-on-a-replica-is-locked",
        "lane:scenes/nothing-can-be-created-or-deleted-on-a-replica",
    ),
    "30 a dead replicator": (
        "hazards/test_hazard_30_a_dead_replicator.py::test_what_was_committed_meanwhile_is_captured_afterwards",
        "lane:special/a-program-goes-on-when-the-replicator-is-stopped-for-a-while",
    ),
}

OPEN: Final[dict[str, str]] = {}
"""Rows without a guard, and why."""

//! The rules of the fleet protocol, each with a switch.

/// One rule. The model obeys all of them, or all but one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// L1 is served only under a lease.
    LeaseOnHit,
    /// The lease runs from the time at which its sync was sent, not from when the reply came.
    LeaseFromSending,
    /// A write waits for every holder.
    WaitForHolders,
    /// It waits for each of them one lease at most.
    WaitOneLeaseAtMost,
    /// The proxy that wrote sets its own marks before it answers.
    OwnMarksAtOnce,
    /// An own mark of an epoch that the table does not have ends the lease and voids the sync under way.
    OwnMarkOfAnotherEpoch,
    /// An invalidation sets the marks in Redis, too.
    MarksInRedis,
    /// A proxy says that it has applied an invalidation only when the marks are in its table.
    MarksBeforeAcknowledging,
    /// An entry in L1 has the stamp that was read before its fetch; from L2, the stamp that it has there.
    StampBeforeFetchInL1,
    /// An entry goes to L2 with the stamp that was read before its fetch.
    StampBeforeFetchInL2,
    /// A reader joins only a fetch whose stamp is current for what the reader knows of the marks.
    JoinOnlyCurrentFetches,
    /// A member stays one until it leaves or is expelled: no expiry.
    MembersUntilExpelled,
    /// Only a member that did not sync while it was waited for is expelled.
    ExpelOnlyWithoutRenewal,
    /// The number by which a renewal shows never repeats, not even when the record was lost or removed.
    SyncsNeverRepeat,
    /// A proxy that leaves serves nothing from L1 any more.
    LeaseEndsBeforeLeaving,
    /// A process that starts takes an id that none had before.
    IdOfOneProcess,
    /// A nudge is applied only if it follows on what was applied.
    NudgeContiguous,
    /// Another `run_id` than the one in meta starts a new epoch.
    EpochByRunId,
    /// Marks without their sentinel start a new epoch.
    EpochByLostMarks,
    /// Members without their sentinel start a new epoch.
    EpochByLostMembers,
    /// No write is answered until its epoch is older than one lease.
    WaitForEpochAge,
    /// Marks that are dropped raise the floor.
    FloorByTrimming,
    /// In L1, too, what was stamped in another epoch is not current.
    L1ClearedByEpoch,
    /// The intent is recorded before the write is forwarded.
    IntentBeforeForwarding,
    /// Any proxy carries out the intents that are due.
    IntentsCarriedOut,
    /// A write is answered only when Redis has taken its invalidation.
    AnswerOnlyDelivered,
    // Of failovers, leases of different length, and clocks: `failover`.
    /// A sync counts only when as many replicas have it as `wait_replicas` says.
    SyncsReplicated,
    /// So does an invalidation.
    WritesReplicated,
    /// The store is trusted only while the lease of a sync that counted runs, in every mode.
    ProofForViews,
    /// And only in the epoch of that sync.
    ProofOfItsEpoch,
    /// The age of an epoch counts from the first answer in it that counted.
    AgeFromReplicatedAnswer,
    /// Where an epoch was seen to begin, its age is no greater than the own clock says.
    AgeByOwnClock,
    /// The longest lease of the fleet is in meta, and survives the members' records.
    LongestLeaseInMeta,
    // Three of them bind the operator or program that arranges failovers, not Larder.
    /// A replica turns to no server that was promoted before the one it has followed.
    ReplicasNeverGoBack,
    /// A primary that becomes a replica drops its clients.
    DemotionDropsClients,
    /// A deposed primary is another process (has another `run_id`) by the time it is promoted again.
    DeposedRestart,
    // Of recovery after Redis was away: `recovery`.
    /// The gate of a strict proxy, too, is open for a lease from the sending of its last sync only.
    StrictGatesLapse,
    /// A lapsed lease closes the gate, as a failed sync does: at that moment, whatever sync is under way.
    LapseCloses,
    /// A reply opens a gate only if its sync asked for the members that are behind.
    AskedWhenClosed,
    /// The first sync that is executed after a silence of the whole fleet raises the generation.
    SilenceRaises,
    /// A silence counts from the beginning of its epoch where no sync was executed in it before.
    EpochStartIsHeard,
    /// Another has returned when its record says that it had read the generation, not when it has synced.
    EvidenceBySeen,
    /// What is taken for evidence is in a reply together with the marks, and the marks are applied first.
    EvidenceWithMarks,
    /// A generation is one of its epoch.
    SeenOfItsEpoch,
    /// A proxy that starts awaits the others.
    NewcomersAwait,
    /// A proxy syncs only when it has delivered everything.
    SyncOnlyDelivered,
    /// It says that it leaves only then, too.
    LeaveOnlyDelivered,
    /// Expelling keeps the record.
    ExpelKeepsRecord,
    /// A record that is silent is removed only if its proxy is not behind.
    TidyOnlyReturned,
    /// Before a proxy that saw the outage opens without another it invalidates the root.
    RootBeforeOpening,
    /// Also where its last sync was in the epoch before.
    RootInAnyEpoch,
    /// One that saw no outage opens without another only after those that did.
    SeersFirst,
    /// The record of one that was given up is removed only if the generation is the same.
    DismissOfItsGeneration,
    /// And only if there is no silence.
    DismissNotInSilence,
    /// And only if it has not synced meanwhile.
    DismissUnlessSynced,
    /// And only if no lease of it runs.
    DismissAfterLease,
    /// What is undelivered is acknowledged when all leases are over.
    ForwardAfterLease,
    /// And when an attempt to connect has failed after that.
    FailedAttempt,
    /// The lease counts from an attempt that failed, not from when a connection broke.
    LeaseFromFailedAttempt,
    /// From that attempt to the last no other proxy was answered: one attempt follows the other.
    AttemptsWithoutGap,
    /// An attempt that began after upstream's answer has failed.
    AttemptAfterWrite,
    /// A proxy that has never synced acknowledges nothing undelivered for five seconds.
    NewcomersHold,
    /// Nor does one that may have been given up since its last sync.
    LapsedMembersHold,
    /// After a long silence a proxy also waits for proxies that no record names.
    WaitsForStrangers,
    /// Also a proxy that saw no outage, and finds no member behind.
    StrangersAwaitedByAll,
    /// So it is after a silence that began in a young epoch.
    WaitsInYoungEpoch,
    /// A silence that begins while that is waited for is one with the silence before.
    SilencesJoin,
}

package main

// row is one fault: how it is made to happen, what has to come of it, and the tests
// that do both.
type row struct {
	fault, injected, expected string
	tests                     []string // package below the module, and name
}

// rows are all faults, of broker, engine, plugins, store, and of what people send.
func rows() []row {
	var all []row
	all = append(all, ofProcesses()...)
	all = append(all, ofTheBroker()...)
	all = append(all, ofFrames()...)
	all = append(all, ofPlugins()...)
	all = append(all, ofTheStore()...)
	return append(all, ofWhatWaitsAndFails()...)
}

const (
	chaos      = "bench/chaos.TestNothingIsLostWhateverIsKilled"
	onTables   = "bench/chaos.TestNothingIsLostOnTablesWhateverIsKilled"
	inOne      = "bench/chaos.TestNothingIsLostInOneProcessWhateverIsKilled"
	simulation = "engine.TestSimulation"
)

func ofProcesses() []row {
	return []row{
		{"an engine is killed", "kill -9 of one of two, at any time", "the other goes on, nothing lost", []string{chaos, onTables, inOne, "cli.TestNothingIsLostWhenTheWholeProcessIsKilled"}},
		{
			"an engine dies between two steps that last", "the process ends itself before and after each call of store and broker, alone and two at once; the same on fakes",
			"nothing lost, what runs again is in flight at the time", []string{"bench/chaos.TestAnEngineMayDieAtEveryPlace", simulation},
		},
		{"an engine is told to end under load", "SIGTERM", "it ends in time, no attempt is charged", []string{chaos, "engine.TestStoppingLetsHandlersFinishAndLeavesTheRestAtTheBroker", "engine.TestADrainIsNoDeath"}},
		{"and is killed before it has", "SIGTERM, then SIGKILL within 300 ms", "nothing lost", []string{chaos, onTables, inOne}},
		{"an engine hangs", "SIGSTOP for longer than heart-beats allow, then SIGCONT", "others take over; what it had is stale when it wakes", []string{chaos, "engine.TestAnAttemptIsStoppedWhenItsClaimCannotBeRenewed"}},
		{"an engine may open no files", "a limit of 8, then its connections are cut and its plugin is killed", "it is back when it may, nothing lost", []string{"bench/chaos.TestAnEngineWithoutFilesComesBack"}},
		{"an engine cannot log", "standard error on a disk that is full", "it goes on", []string{"bench/chaos.TestAnEngineThatCannotLogGoesOn"}},
		{"two engines are killed in turn, and again", "kill -9 while what was in hand is claimed", "claims end, nobody is dead-lettered for it", []string{chaos, "engine.TestACopyOfWhatADeadEngineHadClaimedWaitsForItsLease"}},
		{"one of two engines that share tables is killed half-way", "kill -9, 20,000 messages on ActiveMQ and DynamoDB's interface", "the ledger closes", []string{"cli.TestTwoEnginesShareTheirTablesAndOneIsKilledHalfWay"}},
		{"whoever releases parked messages dies", "an engine ends without a word", "its buckets are taken over within 10 s", []string{"engine.TestTheBucketsOfADeadEngineAreTakenOverWithinTenSeconds"}},
	}
}

func ofTheBroker() []row {
	return []row{
		{"the broker hangs", "SIGSTOP of ActiveMQ", "pause, and go on", []string{chaos, "engine/stomp/internal/session.TestSilentBrokerEndsTheSession"}},
		{"the broker restarts", "stop and start of ActiveMQ", "connect and subscribe again", []string{chaos, "engine/stomp.TestActiveMQ"}},
		{"the broker is killed while it writes", "kill -9 of ActiveMQ, same files", "what it gave a receipt for is there", []string{chaos, "engine/embedded/broker.TestAKillLosesNothingReceipted"}},
		{"the active one of two brokers dies", "kill -9; the other waits for the lock of the same files", "first effect within 10 s of its opening, nothing lost", []string{"bench/chaos.TestFailover", "engine/stomp.TestFollowsTheLiveEndpoint"}},
		{"the broker comes and goes", "connections cut and refused for a second, ten times", "as many files and goroutines as before", []string{"bench/chaos.TestABrokerThatComesAndGoesCostsNothingThatStays"}},
		{"many engines connect at once", "the waits between tries, drawn often", "spread, the first one too", []string{"engine/stomp.TestBackOffGrowsWithJitter", "engine/stomp.TestTheWaitBetweenSessionsIsShortHoweverLongTheBrokerWasAway"}},
		{"a connection breaks inside a frame", "cut, or reset, before, in and after SEND, RECEIPT, MESSAGE and ACK", "the frame is as not sent", []string{chaos}},
		{"a long line to the broker", "each frame takes 100 to 300 ms, in each direction", "no session ends; at least half as fast as without", []string{"bench/chaos.TestALongLineToTheBroker"}},
		{"a network that swallows everything", "a proxy holds all bytes for 3 s", "the session ends by heart-beat", []string{chaos, "engine/stomp/internal/session.TestBrokerThatTakesNothingEndsTheSession"}},
		{"acks are lost", "cut before ACK", "redelivered, and not run again", []string{chaos, "engine.TestTheSameMessageTwiceHasOneEffect"}},
		{"a receipt does not come", "a broker that gives none", "a time-out, and no goroutine stays", []string{"engine/stomp.TestPublishFails", "engine/stomp/internal/session.TestLateReceiptIsIgnored"}},
		{"the broker answers an ack with ERROR", "an ack of a session that is over", "nothing is acked that is not in hand; one new session at most", []string{"engine/stomp.TestAcksAsTheVersionWantsIt", "engine.TestAnErrorOfAnOldSessionDoesNotStopTheEngine"}},
		{"the broker takes no messages", "publishing fails until it does not", "nothing is acked before its copy is published", []string{"engine.TestNothingIsAckedBeforeItsCopyIsPublished"}},
		{"the dead-letter queue may not be written", "an authorization entry of ActiveMQ", "what would be dead stays in the broker, all else goes on; then it is dead", []string{"bench/chaos.TestADeadLetterQueueThatMayNotBeWritten"}},
		{"the broker's store is full", "storeUsage of 4 MiB, eight producers that send as fast as they can", "acks need no room: engines make some, and producers are answered again", []string{"bench/chaos.TestABrokerWhoseStoreIsFull"}},
		{"it is full, and messages in it are to be dead", "a quarter of them fails for good; later 1 GiB, after a kill -9", "all else is done, they wait; with room there is one dead letter of each", []string{"bench/chaos.TestDeadLettersWaitForRoom", "engine.TestWhatWaitsToBeSettledIsClaimed", "engine.TestWhatIsTakenWhileItWaitsToBeSettledIsSettledByWhoHasIt"}},
		{"the disk of the embedded broker fails", "errors of its file", "refused, and nothing lost", []string{"engine/embedded/broker.TestFailingDiskRefusesAndLosesNothing"}},
	}
}

func ofFrames() []row {
	return []row{
		{"frames that are none", "bad commands, headers, lengths and escapes; fuzzing", "an error, little memory", []string{"engine/stompframe.TestReaderRefuses", "engine/stompframe.TestHostileLengthsAllocateLittle", "engine/stompframe.FuzzReader"}},
		{"a body that is too long", "longer than engine.maxBody", "read past, dead-lettered with its reason", []string{"engine/stompframe.TestReaderReadsPastAnOverLongBody", "engine.TestBadInputIsDeadLetteredOnceWithItsReason"}},
		{"headers by the thousand, or long ones", "over 256, or over 10,000 bytes", "marked, and the session goes on", []string{"engine/stomp.TestMessagesThatCannotBeKeptDoNotEndTheSession"}},
		{"unknown types, bad ids, priorities and times", "each of them, and any others", "one dead letter with a reason, no attempt", []string{"engine.TestBadInputIsDeadLetteredOnceWithItsReason", "engine.FuzzHeaders", "cli.TestAProblemOfBadInputEndsInTheDeadLetterQueueOnce"}},
		{"messages as hostile as can be", "72 of them, beside messages that are well; on ActiveMQ and embedded", "each ends once, as it should; engine, log and API are well", []string{"bench/chaos.TestSixtyHostileMessages"}},
		{"one id, two messages", "another body with the id of one that was done", "both are kept, one as id_conflict", []string{"engine.TestTheSameIDWithAnotherBodyIsAConflict", "engine.TestTwoBodiesOfOneIDInTwoEnginesAtOnce"}},
		{"hostile clients of the embedded broker", "floods, half frames, too many connections", "their own connection ends", []string{"engine/embedded/broker.TestHostileInputEndsOnlyItsConnection", "engine/embedded/broker.TestFloodWithoutReadingCostsAFixedAmount", "engine/embedded/broker.TestTooManyConnections"}},
	}
}

func ofPlugins() []row {
	return []row{
		{"a message kills its plugin", "the process exits with it in hand, each time", "alone in a process apart, then a dead letter; others are not charged", []string{"engine.TestAMessageThatTwoCrashesHadInHandRunsApart", "engine/pluginhost.TestAMessageAloneCrashesNobodyElsesProcess"}},
		{"a message kills its engine", "kill -9 of the parent, each time", "poison after three deaths alone", []string{"cli.TestAMessageThatEndsEveryEngineIsPoison", "engine.TestThreeDeathsAloneArePoison"}},
		{"a plugin is killed", "kill -9 under load", "back by itself, its messages tried again", []string{chaos, "engine/pluginhost.TestKilledPluginLosesItsMessagesAndComesBack", "cli.TestAPluginThatIsKilledMidMessageComesBackAndItsMessagesAreTriedAgain"}},
		{"a plugin hangs", "SIGSTOP", "killed, its slots are free", []string{"engine/pluginhost.TestStoppedProcessIsKilledAfterTheGrace", "engine/pluginhost.TestThreePingsWithoutAnAnswerKill"}},
		{"a plugin ignores cancel", "a loop without end", "killed after the grace", []string{"engine/pluginhost.TestHangIsKilledAfterTheGrace"}},
		{"a plugin crashes again and again", "exit at start, or with each message", "quarantine; its types wait, others flow", []string{"engine/pluginhost.TestAPluginThatCrashesOftenIsInQuarantineUntilMessagesComeBack", "engine.TestAPluginInQuarantineIsTriedWithOneMessageAndTheOthersFlow"}},
		{"a program that is no plugin", "no handshake, a wrong one, no program at all", "an error that says what to do; tried again", []string{"engine/pluginhost.TestPluginThatDoesNotStart", "engine/pluginhost.TestProgramThatTheSystemDoesNotStart"}},
		{"a plugin breaks the protocol", "outcomes nobody waits for, unknown verdicts, any frames", "its session ends when it does, each message has one answer", []string{"engine/pluginhost.TestStrangeOutcomes", "engine/pluginhost.FuzzPluginFrames"}},
		{"a plugin answers at length", "256 MiB in one frame", "the plugin is lost, the host's memory is not", []string{"engine/pluginhost.TestAnAnswerThatIsTooLongIsNotRead"}},
		{"a plugin takes all memory", "512 MiB where 256 are allowed", "it ends alone, with its last words, and is back", []string{"engine/pluginhost.TestAPluginGetsNoMoreMemoryThanItMay"}},
		{"a plugin floods its output", "long lines, many lines", "cut, dropped and counted", []string{"engine/pluginhost.TestWhatAPluginWritesHarmsNobody", "engine/pluginhost.TestLinesOverTheRateAreDroppedAndCounted"}},
		{"an engine dies and leaves plugins", "kill -9 of the parent", "they end with it", []string{"engine/pluginhost.TestPluginDiesWithItsHost", "handlers/plugin.TestPluginEndsWithItsParent"}},
		{"a program is put in another's place", "the file is changed between check and start", "only the one with the digest runs", []string{"engine/pluginhost.TestOnlyTheProgramWithTheDigestRuns", "engine/pluginhost.TestOnlyWithTheFilesOfTheDigest"}},
		{"a plugin is changed under load", "a new process beside the old one", "nothing lost", []string{"engine/pluginhost.TestASwapLetsTheOldProcessFinishWhatItHas", "cli.TestNothingIsLostWhenTheConfigurationChangesUnderLoad"}},
	}
}

func ofTheStore() []row {
	return []row{
		{"tables throttle", "half of all requests, or all, are refused", "repeated within a budget; nothing dead-lettered", []string{onTables, "engine/dynamo.TestWhatIsThrottledIsRepeatedWithinABudget"}},
		{"tables are gone", "connections end without an answer; 32 callers", "a request each two seconds, back at once", []string{onTables, "engine/dynamo.TestAStoreThatIsGoneIsAskedSeldom", "engine.TestWhileTheRecordsAreDownNothingStartsAndThenAllOfItDoes"}},
		{"a write has landed and its answer is lost", "500 after it was carried out, each fourth call", "the whole suite of records passes", []string{onTables, "engine/dynamo.TestRecordsWhenAnswersAreLost", "engine/dynamo.TestArchiveWhenAnswersAreLost", "engine.TestAWriteWhoseAnswerWasLostIsRecognised"}},
		{"look-ups and the index lag", "answers as of 200 ms ago", "the whole suite of records passes", []string{"engine/dynamo.TestRecordsWhenLookUpsAndIndexesLag"}},
		{"a slow store", "calls that hang, or take longer than a lease", "attempts stop in time; claimed messages are done", []string{"engine.TestAnAttemptIsStoppedWhenTheRecordsHang", "engine.TestOnASlowStoreClaimedMessagesAreDone"}},
		{"a store in any mood", "calls that fail before or after their effect, or take long, in 2,000 schedules", "every message ends as it has to", []string{simulation}},
		{"a dead engine's claim", "it is not ended", "waited for, not longer than its lease", []string{"engine.TestWhatADeadEngineHadClaimedWaitsInProportionToHowLongItRan"}},
		{"a stale copy", "the copy of an earlier hop is delivered late", "acked without effect", []string{"engine.TestAStaleCopyHasNoEffect"}},
		{"an engine's clock is off", "five minutes ahead and behind that of the tables, under load", "it is not ready and starts nothing; the other goes on", []string{"engine/dynamo.TestAClockThatIsOffClaimsNothing", "cli.TestAnEngineWhoseClockIsOffStartsNothing"}},
		{"a clock is set", "an hour back and forward, while it runs", "looked at before anything is written", []string{"engine/dynamo.TestAClockThatIsSetIsLookedAtBeforeAnythingIsWritten", "engine/dynamo.TestWhatCountsAsOff"}},
		{"tables that are not there", "a wrong name, region or right", "an error that names the thing and the remedy", []string{"engine/dynamo.TestErrorsNameTheThingAndTheRemedy", "cli.TestTablesThatAreNotThereAreNamedAtTheStart"}},
	}
}

func ofWhatWaitsAndFails() []row {
	return []row{
		{"many messages that are not due", "parked for an hour", "nothing of them in the broker", []string{"engine.TestWhatWaitsLongIsParkedAndCostsTheBrokerNothing"}},
		{"ten thousand are due at once", "parked for the same time, on ActiveMQ; urgent ones are sent meanwhile", "none early, and urgent ones go before them", []string{"bench/chaos.TestTenThousandDueAtOnceKeepNoUrgentOneWaiting"}},
		{"a message that cannot be released", "publishing it fails", "it keeps no other waiting", []string{"engine.TestAMessageThatCannotBeReleasedKeepsNoOther"}},
		{"a plugin is away", "no process for its types", "asked now and then, no attempt is charged", []string{"engine.TestAPluginThatIsAwayIsNotAskedInAHotLoop", "engine.TestAMessageWhosePluginComesBackRunsAtOnce"}},
		{"everything fails", "a handler that fails each time", "as many attempts as configured, then a dead letter", []string{"engine.TestFailuresAreTriedAgainUntilExhausted", "engine.TestRedeliveriesAreFurtherRoundsOfAttemptsOnTheSameLevel", "engine.TestEveryMessageEnds"}},
		{"what a handler needs is away", "a receiver of webhooks that refuses connections for 10 s", "nothing dead, other types are done as before", []string{"bench/chaos.TestAReceiverThatIsAwayCostsNothing", "engine.TestABreakerHasATypeWaitWhileWhatItNeedsIsAway"}},
		{"the archive is away", "calls fail", "nothing is acked, then all is", []string{"engine/monitor.TestWhileTheArchiveIsAwayNothingIsAckedAndThenAllIs"}},
		{"nobody looked after dead letters, and nobody can be told", "5,000 of them in their queue, a webhook that does not answer", "all archived, in at most 64 MiB more; one note a kind and window", []string{"bench/chaos.TestADeadLetterQueueThatNobodyLookedAfter", "engine/monitor.TestOneNoteAtOnceThenOneAWindow", "engine/monitor.TestADeadOpsChannelSlowsNothing"}},
		{"redriving what dies again", "redriven three times", "then only with force", []string{"cli.TestARedriveLoopEnds"}},
		{"watchers are gone, slow, or refused", "410, 429, 403, 413, 5xx, no answer", "asked once, slowed down for that one alone, never waited for", []string{"engine/apigateway.TestAConnectionThatIsGoneIsAskedOnce", "engine/apigateway.TestASlowConnectionGetsTheLatestAndDelaysNoOther", "engine/apigateway.TestErrorsOfTheGatewayAreTriedFourTimes", "engine/apigateway.TestNothingGrowsWithoutBound"}},
		{"a viewer that reads nothing", "a connection that is full", "cut off, and others are not", []string{"engine/embedded/live.TestAClientThatTakesNothingIsCutOffAndOthersAreNot", "engine/embedded/live.TestASlowReaderBlocksNobodyAndGetsTheLatest"}},
		{"long statuses", "the longest of everything", "each fits in one frame", []string{"engine/embedded/live.TestEveryFrameFitsIn32KiB"}},
		{"a bad configuration", "bad files, at the start and at a reload", "refused with file, line and remedy; the last good one stays", []string{"config.TestBadConfigurations", "cli.TestAChangedConfigurationIsFollowedAndABadOneIsNot"}},
		{"the broker's password is changed", "its users file", "the new one is read when the old one is refused", []string{"account.TestARotatedPasswordIsReadAgain"}},
		{"an urgent flood", "only messages of high levels", "lower levels have their share of the starts", []string{"bench/chaos.TestAnUrgentFloodLeavesLowerLevelsTheirShare", "engine.TestLowerLevelsHaveTheirShareOfTheStarts"}},
		{"all of it, for a long time", "blows of all kinds that leave one engine alive", "that one holds as much memory, as many files and goroutines as before", []string{"bench/chaos.TestASoakCostsNothingThatStays"}},
		{"a change of many things under load", "reloads, pauses, delays, redrives and kills at once", "the ledger closes", []string{"cli.TestTheBooksCloseOverEverythingThatWaitsAndFails"}},
	}
}

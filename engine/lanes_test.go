package engine

import (
	"errors"
	"testing"
	"time"
)

// lanesAt is a session some time after its start, with statistics that said at
// noon what each lane has waiting.
func lanesAt(waiting map[int]int) *lanes {
	l := newLanes(2)
	l.reset(noon.Add(-time.Second))
	d := Depths{At: noon, Lanes: map[int]Depth{}}
	for i := range Levels {
		d.Lanes[i] = Depth{Size: waiting[i]}
	}
	l.depths(d)
	return &l
}

func TestNothingIsHeldWhenNothingIsBehind(t *testing.T) {
	l := lanesAt(nil)
	if floor := l.floor(noon); floor != 0 {
		t.Errorf("floor %d, want 0", floor)
	}
}

func TestALaneWithMoreInTheBrokerHoldsLowerLevels(t *testing.T) {
	l := lanesAt(map[int]int{7: 1})
	if floor := l.floor(noon); floor != 7 {
		t.Errorf("floor %d, want 7", floor)
	}
	l.deliveredOne(7, noon, noon)
	if floor := l.floor(noon); floor != 0 {
		t.Errorf("after its last message came the floor is %d, want 0", floor)
	}
}

func TestAFullWindowHoldsNobody(t *testing.T) {
	l := lanesAt(map[int]int{7: 10})
	l.deliveredOne(7, noon, noon)
	l.deliveredOne(7, noon, noon)
	if floor := l.floor(noon); floor != 0 {
		t.Errorf("floor %d, want 0: the window of lane 7 is full", floor)
	}
	l.ackedOne(7, noon)
	if floor := l.floor(noon); floor != 7 {
		t.Errorf("floor %d, want 7: its window has a place and the broker has more", floor)
	}
}

func TestAWindowThatWasFullMayHideMore(t *testing.T) {
	l := lanesAt(nil) // the broker had nothing at noon
	l.deliveredOne(5, noon, noon)
	l.deliveredOne(5, noon, noon)
	l.ackedOne(5, noon)
	if floor := l.floor(noon); floor != 5 {
		t.Errorf("floor %d, want 5 until the broker has been asked again", floor)
	}
	l.depths(Depths{At: noon, Lanes: map[int]Depth{5: {Size: 1, InFlight: 1}}})
	if floor := l.floor(noon); floor != 0 {
		t.Errorf("floor %d, want 0: the broker says that nothing more waits", floor)
	}
}

func TestASilentLaneHoldsNobody(t *testing.T) {
	l := lanesAt(map[int]int{7: 10})
	l.depths(Depths{At: noon.Add(2 * time.Second), Lanes: map[int]Depth{7: {Size: 10}}})
	if floor := l.floor(noon.Add(2 * time.Second)); floor != 0 {
		t.Errorf("floor %d, want 0: nothing came for 2 s, whatever the depth says", floor)
	}
}

func TestWithoutStatisticsOldMessagesTellOfMore(t *testing.T) {
	l := newLanes(2)
	l.reset(noon.Add(-time.Second))
	l.deliveredOne(7, noon.Add(-time.Second), noon)
	if floor := l.floor(noon.Add(249 * time.Millisecond)); floor != 7 {
		t.Errorf("floor %d, want 7: what came had waited a second", floor)
	}
	if floor := l.floor(noon.Add(250 * time.Millisecond)); floor != 0 {
		t.Errorf("floor %d after 250 ms, want 0", floor)
	}
	l.deliveredOne(7, noon.Add(time.Second-lateAfter), noon.Add(time.Second))
	if floor := l.floor(noon.Add(time.Second)); floor != 0 {
		t.Errorf("floor %d, want 0: what came had hardly waited", floor)
	}
}

// A full window of a backlog was settled at once, and the broker took longer than
// that evidence held to fill it again: all slots went to the next level.
func TestEvidenceHoldsFromWhenTheWindowHasAPlaceAgain(t *testing.T) {
	l := newLanes(2)
	l.reset(noon.Add(-time.Second))
	for range 2 {
		l.deliveredOne(7, noon.Add(-time.Minute), noon)
	}
	freed := noon.Add(700 * time.Millisecond)
	l.ackedOne(7, freed)
	l.ackedOne(7, freed)
	if floor := l.floor(freed.Add(249 * time.Millisecond)); floor != 7 {
		t.Errorf("floor %d, want 7: until now there was no place for more", floor)
	}
	if floor := l.floor(freed.Add(250 * time.Millisecond)); floor != 0 {
		t.Errorf("floor %d, want 0: there was a place for 250 ms", floor)
	}
}

func TestALaneWhoseLastMessageHadNotWaitedIsNotBehind(t *testing.T) {
	l := newLanes(3)
	l.reset(noon.Add(-time.Second))
	l.deliveredOne(7, noon.Add(-time.Minute), noon)
	l.deliveredOne(7, noon, noon.Add(time.Millisecond))
	if floor := l.floor(noon.Add(2 * time.Millisecond)); floor != 0 {
		t.Errorf("floor %d, want 0: its backlog has come to an end", floor)
	}
}

// An answer that waited for deliveries counted as given: for a moment nothing
// was known and nothing was asked, and all slots went to the next level.
func TestAnAnswerThatWaitsForDeliveriesIsNotGivenYet(t *testing.T) {
	l := newLanes(2)
	l.reset(noon.Add(-time.Second))
	l.asking = true
	l.deliveredOne(7, noon.Add(-time.Minute), noon)
	l.told(Depths{At: noon, After: 2, Lanes: map[int]Depth{7: {Size: 9, InFlight: 1}}}, nil)
	if floor := l.floor(noon.Add(time.Second)); floor != 7 {
		t.Errorf("floor %d, want 7: what came had waited, and the answer does not count yet", floor)
	}
}

func TestAnAnswerOverridesOlderEvidence(t *testing.T) {
	l := lanesAt(nil)
	l.deliveredOne(7, noon.Add(-time.Minute), noon)
	l.depths(Depths{At: noon.Add(time.Millisecond), Lanes: map[int]Depth{7: {Size: 1, InFlight: 1}}})
	if floor := l.floor(noon.Add(2 * time.Millisecond)); floor != 0 {
		t.Errorf("floor %d, want 0: the broker was asked after the old message came", floor)
	}
}

func TestSettledOnceEveryLaneDeliveredOrTheGraceIsOver(t *testing.T) {
	l := newLanes(2)
	l.reset(noon)
	l.depths(Depths{At: noon})
	if l.settled(noon.Add(299 * time.Millisecond)) {
		t.Error("settled before any lane delivered and before 300 ms")
	}
	if !l.settled(noon.Add(300 * time.Millisecond)) {
		t.Error("not settled after 300 ms")
	}
	l.reset(noon)
	for i := range Levels {
		l.deliveredOne(i, noon, noon)
	}
	if !l.settled(noon) {
		t.Error("not settled although every lane has delivered")
	}
}

// A broker that had just started had not delivered its highest lane after 300 ms.
func TestNotSettledBeforeTheBrokerHasAnswered(t *testing.T) {
	l := newLanes(2)
	l.reset(noon)
	l.told(Depths{}, errors.New("slow"))
	if l.settled(noon.Add(1999 * time.Millisecond)) {
		t.Error("settled although the broker has not said where messages wait")
	}
	if !l.settled(noon.Add(2 * time.Second)) {
		t.Error("not settled after 2 s")
	}
	l.told(Depths{At: noon, After: 1}, nil)
	if l.settled(noon.Add(time.Second)) {
		t.Error("settled by an answer that counts a delivery that has not come")
	}
	l.deliveredOne(3, noon, noon)
	if !l.settled(noon.Add(time.Second)) {
		t.Error("not settled by an answer")
	}
}

func TestABrokerThatNeverTellsIsNotWaitedFor(t *testing.T) {
	l := newLanes(2)
	l.reset(noon)
	l.told(Depths{}, ErrNoStatistics)
	for session := range 2 {
		if !l.settled(noon.Add(300 * time.Millisecond)) {
			t.Errorf("session %d: not settled after 300 ms", session)
		}
		l.reset(noon)
	}
	l.told(Depths{At: noon}, nil)
	l.reset(noon)
	if l.settled(noon.Add(300 * time.Millisecond)) {
		t.Error("settled without an answer of a broker that tells")
	}
}

// A question that timed out counted as answered, so that eight slots filled with
// low levels at once.
func TestAQuestionThatTimedOutStaysOpen(t *testing.T) {
	l := newLanes(2)
	l.reset(noon.Add(-time.Second))
	l.asking = true
	l.told(Depths{}, errors.New("slow"))
	l.deliveredOne(7, noon.Add(-time.Minute), noon)
	if floor := l.floor(noon.Add(time.Second)); floor != 7 {
		t.Errorf("floor %d, want 7: what came had waited, and the broker has not answered yet", floor)
	}
	l.level[7].last = noon.Add(5 * time.Second) // something fresh came
	if floor := l.floor(noon.Add(5 * time.Second)); floor != 0 {
		t.Errorf("floor %d, want 0: evidence of 5 s ago says nothing", floor)
	}
}

// With a slow store all of a lane's window was being settled: nothing of it
// could run, and lower levels were let past the rest of the lane.
func TestAWindowThatIsBeingSettledStillHoldsLowerLevels(t *testing.T) {
	l := lanesAt(map[int]int{7: 10})
	for range 2 {
		l.deliveredOne(7, noon, noon)
		l.leaves(7, +1, noon)
	}
	if floor := l.floor(noon); floor != 7 {
		t.Errorf("floor %d, want 7: its window empties by itself, and the broker has more", floor)
	}
}

// An answer overtook deliveries in the process, so that the last of a lane
// were taken for the ones that the broker still had.
func TestAnAnswerWaitsForTheDeliveriesThatCameBeforeIt(t *testing.T) {
	l := lanesAt(map[int]int{7: 1})
	l.depths(Depths{At: noon, After: 1, Lanes: map[int]Depth{7: {Size: 1, InFlight: 1}}})
	if floor := l.floor(noon); floor != 7 {
		t.Errorf("floor %d, want 7: the message that is in flight has not come yet", floor)
	}
	l.deliveredOne(7, noon, noon)
	if floor := l.floor(noon); floor != 0 {
		t.Errorf("floor %d, want 0: it has come", floor)
	}
}

// A broker that had just started took half a second for its first answer, and
// by then the first window of every lane had run.
func TestEvidenceHoldsUntilTheAnswerComes(t *testing.T) {
	l := newLanes(2)
	l.reset(noon.Add(-time.Second))
	l.asking = true
	l.deliveredOne(7, noon.Add(-time.Second), noon)
	if floor := l.floor(noon.Add(time.Second)); floor != 7 {
		t.Errorf("floor %d, want 7: what came had waited, and the broker has not answered yet", floor)
	}
	l.told(Depths{At: noon.Add(time.Second), Lanes: map[int]Depth{7: {Size: 1, InFlight: 1}}}, nil)
	if floor := l.floor(noon.Add(time.Second)); floor != 0 {
		t.Errorf("floor %d, want 0: nothing more waits", floor)
	}
}

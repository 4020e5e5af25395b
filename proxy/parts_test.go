package proxy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/openprivatelink/openprivatelink/proxy/forward"
)

func TestFlowSet(t *testing.T) {
	var s flowSet
	var flows []*session
	for range 4 {
		f := &session{flow: new(forward.Flow)}
		if !s.add(f) {
			t.Fatal("an open set takes nothing")
		}
		flows = append(flows, f)
	}
	s.remove(flows[0])
	s.cut(ReasonReplaced, func(f *session) bool { return f == flows[1] })
	if flows[1].flow.Reason() != ReasonReplaced || flows[2].flow.Reason() != "" {
		t.Error("cut ends what it is asked to and nothing else")
	}
	s.remove(flows[1])
	empty := s.shut()
	if flows[2].flow.Reason() != "" {
		t.Error("shut ends a flow")
	}
	s.end(ReasonRevoked)
	if flows[0].flow.Reason() != "" || flows[2].flow.Reason() != ReasonRevoked || flows[3].flow.Reason() != ReasonRevoked {
		t.Error("end ends what is inside and nothing else")
	}
	if s.add(flows[0]) {
		t.Error("a shut set took a flow")
	}
	select {
	case <-empty:
		t.Fatal("empty, with two inside")
	default:
	}
	s.remove(flows[2])
	s.remove(flows[3])
	<-empty
	<-s.end(ReasonShutdown)
}

// The board tells every reader, however it reads, the newest about each object.
func TestBoard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBoard(time.Now())
		newest := map[string]Health{}
		told := map[string]Health{}
		since := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := fmt.Sprint("srv-", rapid.IntRange(0, 5).Draw(t, "id"))
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				b.drop(within(aServer, "g", id))
				delete(newest, id)
			case 1:
				o, _ := b.since(since)
				if since = o.Next; len(o.Servers) > len(newest) {
					t.Fatalf("%d facts about %d objects", len(o.Servers), len(newest))
				}
				for _, s := range o.Servers {
					told[s.ID] = s.Health
				}
				if again, _ := b.since(since); !again.empty() {
					t.Fatalf("told twice: %+v", again)
				}
				for id, h := range newest {
					if told[id] != h {
						t.Fatalf("%s is %v, told %v", id, h, told[id])
					}
				}
			default:
				h := rapid.SampledFrom([]Health{Unknown, Healthy, Unhealthy}).Draw(t, "health")
				b.post(within(aServer, "g", id), ServerObserved{ServerGroup: "g", ID: id, Health: h})
				newest[id] = h
			}
		}
		all, _ := b.since(0)
		if len(all.Servers) != len(newest) {
			t.Fatalf("from the beginning: %d facts, want %d", len(all.Servers), len(newest))
		}
		if future, _ := b.since(all.Next + 1000); len(future.Servers) != len(newest) {
			t.Fatal("a number from the future hides facts")
		}
	})
}

func TestBoardInBatches(t *testing.T) {
	b := newBoard(time.Now())
	const n = 2*observeBatch + 10
	for i := range n {
		b.post(object{anEndpoint, fmt.Sprint(i)}, EndpointObserved{ID: fmt.Sprint(i)})
	}
	seen := map[string]bool{}
	var sizes []int
	for since := uint64(0); ; {
		o, _ := b.since(since)
		if o.empty() {
			break
		}
		for _, ep := range o.Endpoints {
			seen[ep.ID] = true
		}
		sizes = append(sizes, len(o.Endpoints))
		since = o.Next
	}
	if want := []int{observeBatch, observeBatch, 10}; len(seen) != n || !slices.Equal(sizes, want) {
		t.Errorf("batches %v with %d ids, want %v with %d", sizes, len(seen), want, n)
	}
}

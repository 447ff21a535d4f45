package agent

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/peervip/peervip/node"
)

// problem is one thing that is wrong.
type problem struct {
	text string
	// alert is what clients suffer from it, in a few words, and "" if nothing: with an
	// alert the node is not well.
	alert string
	// logged says that the log has it from elsewhere.
	logged bool
	// waits says that this is why the node does not serve yet: at first no reason to act.
	waits bool
}

// problemList gathers problems, each a sentence with its cure.
type problemList struct{ list []problem }

// add is for what the log shall tell when it begins and when it is over.
func (p *problemList) add(format string, args ...any) {
	p.list = append(p.list, problem{text: fmt.Sprintf(format, args...)})
}

// addAlert is the same for what clients suffer from.
func (p *problemList) addAlert(alert, format string, args ...any) {
	p.list = append(p.list, problem{text: fmt.Sprintf(format, args...), alert: alert})
}

// addLogged is for what the log has from elsewhere.
func (p *problemList) addLogged(format string, args ...any) {
	p.list = append(p.list, problem{text: fmt.Sprintf(format, args...), logged: true})
}

// texts are the sentences, and alert the first alert, or "".
func (p *problemList) texts() (texts []string, alert string) {
	for _, one := range p.list {
		texts = append(texts, one.text)
		if alert == "" {
			alert = one.alert
		}
	}
	return texts, alert
}

const (
	// troubleShows is how long a problem lasts before the log tells it: what passes at
	// once, as while a node starts, nobody needs to act on.
	troubleShows = node.Time(time.Second)
	// troubleOver is how long a problem is away before it counts as over.
	troubleOver = node.Time(5 * time.Second)
	// waitsLong is how long a node may wait to serve before somebody should act.
	waitsLong = node.Time(10 * time.Second)
	// troubleAgain is the least time between two lines that the same problem has begun.
	troubleAgain = node.Time(time.Minute)
)

// troubles has the log tell when a problem begins and when it is over. A problem is
// the same for as long as its sentence is, but for the numbers in it. It belongs to the
// loop.
type troubles struct {
	log  *slog.Logger
	last node.Time           // when it was looked
	open map[string]*trouble // by gist
}

type trouble struct {
	problem
	since, seen  node.Time
	told, warned bool
	toldAt       node.Time // when the log last told that it has begun; 0: never
}

// over reports whether it is. The wait to serve ends at once, since that is an event.
func (t *trouble) over(now, lastLook node.Time) bool {
	return t.waits && t.seen < lastLook || now-t.seen >= troubleOver
}

func newTroubles(log *slog.Logger) troubles { return troubles{log: log, open: map[string]*trouble{}} }

// look takes the problems of this moment. It wants to be called each second or so.
func (t *troubles) look(now node.Time, list []problem) {
	for _, p := range list {
		key := gist(p.text)
		one, ok := t.open[key]
		if !ok || !one.told && one.over(now, t.last) {
			one = &trouble{since: now, toldAt: t.toldAt(key)}
			t.open[key] = one
		}
		one.problem, one.seen = p, now
		t.begin(now, one)
	}
	t.last = now
	for key, one := range t.open {
		if one.told && one.over(now, now) {
			one.told = false
			if !one.logged {
				t.log.Info("over: "+one.text, "lasted", (one.seen - one.since).Round(time.Second))
			}
		}
		if now-one.seen >= troubleAgain {
			delete(t.open, key)
		}
	}
}

func (t *troubles) toldAt(key string) node.Time {
	if one, ok := t.open[key]; ok {
		return one.toldAt
	}
	return 0
}

// begin tells that a problem has begun, when it has lasted.
func (t *troubles) begin(now node.Time, one *trouble) {
	lasted := now - one.since
	if !one.told && lasted >= troubleShows && (one.toldAt == 0 || now-one.toldAt >= troubleAgain) {
		one.told, one.toldAt = true, now
		switch {
		case one.logged:
		case one.waits:
			t.log.Info(one.text)
		default:
			t.log.Warn(one.text)
		}
	}
	if one.told && one.waits && !one.warned && lasted >= waitsLong {
		one.warned = true
		t.log.Warn(one.text, "for", lasted.Round(time.Second))
	}
}

// gist is a sentence without its numbers, by which it is known again.
func gist(text string) string {
	words := strings.Fields(text)
	for i, word := range words {
		if number(strings.Trim(word, ",;:.()%")) {
			words[i] = "#"
		}
	}
	return strings.Join(words, " ")
}

// number reports whether a word is a number or a duration.
func number(word string) bool {
	if _, err := strconv.ParseFloat(word, 64); err == nil {
		return true
	}
	_, err := time.ParseDuration(word)
	return err == nil
}

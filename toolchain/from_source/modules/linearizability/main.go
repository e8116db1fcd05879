// Checks whether recorded histories of API objects are linearizable, by porcupine.
//
// It reads one operation a line on standard input, as live/search/history.py writes it, and prints one JSON object:
// key -> "Ok", "Illegal" or "Unknown" (not decided within the timeout). Each key is an object of its own and has a
// history of its own. With -visualize DIRECTORY it writes a page of each history that is not Ok.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/anishathalye/porcupine"
)

type operation struct {
	Client        int    `json:"client"`
	Action        string `json:"action"`
	Key           string `json:"key"`
	Value         string `json:"value"`
	Expected      int64  `json:"expected"`
	ExpectedValue string `json:"expected_value"`
	Call          int64  `json:"call"`
	Return        int64  `json:"return"`
	Outcome       string `json:"outcome"`
	Version       int64  `json:"version"`
}

// One object as the API has it. Values are unique in a history: a value identifies the write that made it.
type object struct {
	present bool
	value   string
	// 0: a write with an unknown outcome made it, and nobody has read its version yet.
	version int64
	// The highest version that is known of it, also before it was deleted.
	floor int64
	// The operation `end` has passed.
	ended bool
}

const end = "end"

func (o object) is(in operation) bool {
	return o.present && o.value == in.ExpectedValue &&
		(o.version == in.Expected || (o.version == 0 && in.Expected > o.floor))
}

func (o object) written(value string, version int64) object {
	o.present, o.value, o.version = true, value, version
	o.floor = max(o.floor, version)
	return o
}

func (o object) deleted() object {
	o.present, o.value, o.version = false, "", 0
	return o
}

func step(from, input, _ interface{}) (bool, interface{}) {
	o, in := from.(object), input.(operation)
	if in.Action == end {
		o.ended = true
		return true, o
	}
	switch in.Outcome {
	case "ok":
		return answered(o, in)
	case "conflict":
		if in.Action == "create" {
			return o.present, o
		}
		// The version that was expected had been read before, so the object has had it.
		return !(o.present && o.value == in.ExpectedValue) && o.floor >= in.Expected, o
	case "missing":
		return !o.present, o
	case "unknown":
		return unanswered(o, in)
	}
	return false, o
}

func answered(o object, in operation) (bool, interface{}) {
	switch in.Action {
	case "create":
		return !o.present && in.Version > o.floor, o.written(in.Value, in.Version)
	case "update":
		return o.is(in) && in.Version > in.Expected, o.written(in.Value, in.Version)
	case "delete":
		return o.present, o.deleted()
	case "get":
		same := o.version == in.Version || (o.version == 0 && in.Version > o.floor)
		return o.present && o.value == in.Value && same, o.written(in.Value, in.Version)
	}
	return false, o
}

// An operation without an answer takes effect at any time after its call, or never. It may stand before `end` only where
// it takes effect; after `end` nobody looks any more, so there is room for those that never did. Without this, each of
// them could stand everywhere, and the search would grow exponentially.
func unanswered(o object, in operation) (bool, interface{}) {
	switch {
	case in.Action == "create" && !o.present:
		return true, o.written(in.Value, 0)
	case in.Action == "update" && o.is(in):
		o.floor = max(o.floor, in.Expected)
		return true, o.written(in.Value, 0)
	case in.Action == "delete" && o.present:
		return true, o.deleted()
	}
	return o.ended, o
}

func describe(input, _ interface{}) string {
	in := input.(operation)
	switch in.Action {
	case end:
		return end
	case "get":
		return fmt.Sprintf("get: %s %q @%d", in.Outcome, in.Value, in.Version)
	case "update":
		return fmt.Sprintf("update %q from %q @%d: %s @%d", in.Value, in.ExpectedValue, in.Expected, in.Outcome, in.Version)
	}
	return fmt.Sprintf("%s %q: %s @%d", in.Action, in.Value, in.Outcome, in.Version)
}

func describeState(state interface{}) string {
	o := state.(object)
	if !o.present {
		return "absent"
	}
	return fmt.Sprintf("%q @%d", o.value, o.version)
}

var model = porcupine.Model{
	Init:              func() interface{} { return object{} },
	Step:              step,
	DescribeOperation: describe,
	DescribeState:     describeState,
}

func history(of []operation) []porcupine.Operation {
	var last int64
	for _, each := range of {
		if each.Outcome != "unknown" {
			last = max(last, each.Return)
		}
		last = max(last, each.Call)
	}
	var found []porcupine.Operation
	for _, each := range of {
		until := each.Return
		if each.Outcome == "unknown" {
			until = math.MaxInt64
		}
		found = append(found, porcupine.Operation{ClientId: each.Client, Input: each, Call: each.Call, Return: until})
	}
	return append(found, porcupine.Operation{Input: operation{Action: end}, Call: last + 1, Return: last + 2})
}

func main() {
	timeout := flag.Duration("timeout", time.Minute, "for each key")
	pages := flag.String("visualize", "", "the directory of the pages")
	flag.Parse()
	if err := check(*timeout, *pages); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(timeout time.Duration, pages string) error {
	byKey := map[string][]operation{}
	lines := bufio.NewScanner(os.Stdin)
	for number := 1; lines.Scan(); number++ {
		var one operation
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		byKey[one.Key] = append(byKey[one.Key], one)
	}
	if err := lines.Err(); err != nil {
		return err
	}
	results := map[string]porcupine.CheckResult{}
	for key, of := range byKey {
		result, info := porcupine.CheckOperationsVerbose(model, history(of), timeout)
		results[key] = result
		if result != porcupine.Ok && pages != "" {
			if err := porcupine.VisualizePath(model, info, filepath.Join(pages, key+".html")); err != nil {
				return err
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

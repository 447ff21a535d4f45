package agent

// EditError is what only an edit can cure, of the configuration or of the host: to start
// again without one ends the same way.
type EditError struct{ Err error }

func (e *EditError) Error() string { return e.Err.Error() }
func (e *EditError) Unwrap() error { return e.Err }

// editable marks an error, if it is one, as an EditError.
func editable(err error) error {
	if err == nil {
		return nil
	}
	return &EditError{err}
}

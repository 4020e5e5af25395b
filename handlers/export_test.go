package handlers

import "github.com/labstack/echo/v4"

// Echo is the router, for tests that walk its routes.
func (s *Server) Echo() *echo.Echo { return s.echo }

// WithAssets is what stands before the pages when files are missing.
var WithAssets = withAssets

package handlers

import "github.com/labstack/echo/v4"

// Echo is the router, for tests that walk its routes.
func (s *Server) Echo() *echo.Echo { return s.echo }
